"""The token of the greatest key among the parts of a pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_ROWS = 16
_K_NONE = tl.constexpr(2**31 - 1)


@triton.jit(do_not_specialize=["rows", "parts"])
def pick_token(partials, out, rows, parts, shards, BLOCK_ROWS: tl.constexpr, BLOCK_PARTS: tl.constexpr):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    index = tl.arange(0, BLOCK_PARTS)
    shard, part = index // parts, index % parts
    inside = (index < parts * shards)[:, None] & in_rows[None, :]
    at = partials + (shard * 2 * parts + part)[:, None] * rows + row[None, :]
    key = tl.load(at, inside, float("-inf"))
    token = tl.load(at + parts * rows, inside, 0.0).to(tl.int32, bitcast=True)
    best = tl.max(key, 0)
    winner = tl.min(tl.where((key == best[None, :]) & inside, token, _K_NONE), 0)
    tl.store(out + row, winner.to(tl.int64), in_rows)


def launch_pick(partials: torch.Tensor) -> torch.Tensor:
    """int64 [R] of float32 [2, parts, R], or [shards, 2, parts, R] of all shards."""
    parts, rows = partials.shape[-2:]
    shards = partials.numel() // (2 * parts * rows)
    out = torch.empty(rows, dtype=torch.int64, device=partials.device)
    pick_token[(triton.cdiv(rows, BLOCK_ROWS),)](
        partials,
        out,
        rows,
        parts,
        shards,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_PARTS=triton.next_power_of_2(parts * shards),
        num_warps=4,
    )
    return out


def reference_pick(keys: torch.Tensor) -> torch.Tensor:
    """Reference, of all keys float32 [R, V]."""
    return keys.argmax(dim=1)
