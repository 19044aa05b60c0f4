"""The token of the greatest key among the parts of a pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels.heads import NO_TOKEN, Shard

BLOCK_ROWS = 16
_K_NONE = tl.constexpr(NO_TOKEN)


@triton.jit(do_not_specialize=["rows", "count"])
def pick_token(
    partials,
    out,
    rows,
    count,
    MERGE: tl.constexpr,
    MERGED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COUNT: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    index = tl.arange(0, BLOCK_COUNT)
    inside = (index < count)[:, None] & in_rows[None, :]
    if MERGED:
        at = partials + (index * 2 * rows)[:, None] + row[None, :]
        field = rows
    else:
        at = partials + (index * rows)[:, None] + row[None, :]
        field = count * rows
    key = tl.load(at, inside, float("-inf"))
    # As in markov_merge: the sign bit is the transport's.
    token = tl.load(at + field, inside, 0.0).to(tl.int32, bitcast=True) & _K_NONE
    best = tl.max(key, 0)
    winner = tl.min(tl.where((key == best[None, :]) & inside, token, _K_NONE), 0)
    if MERGE:
        tl.store(out + row, best, in_rows)
        tl.store(out + rows + row, winner.to(tl.float32, bitcast=True), in_rows)
    else:
        tl.store(out + row, winner.to(tl.int64), in_rows)


def launch_pick(partials: torch.Tensor, shard: Shard | None = None) -> torch.Tensor:
    """int64 [R] of float32 [2, parts, R], those of ``shard`` if given."""
    if shard is None:
        return _launch(partials, False, False)
    return _launch(shard.gather(_launch(partials, True, False)), False, True)


def _launch(partials: torch.Tensor, merge: bool, merged: bool) -> torch.Tensor:
    """The greatest key and its token, float32 [2, R], if ``merge``; ``partials`` are [ranks, 2, R] if ``merged``."""
    count, rows, device = partials.shape[0 if merged else 1], partials.shape[2], partials.device
    out = torch.empty((2, rows), device=device) if merge else torch.empty(rows, dtype=torch.int64, device=device)
    pick_token[(triton.cdiv(rows, BLOCK_ROWS),)](
        partials,
        out,
        rows,
        count,
        MERGE=merge,
        MERGED=merged,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COUNT=triton.next_power_of_2(count),
        num_warps=4,
    )
    return out


def reference_pick(keys: torch.Tensor, shard: Shard | None = None) -> torch.Tensor:
    """Reference, of all keys float32 [R, V], of which a shard knows its own."""
    if shard is None:
        return keys.argmax(dim=1)
    best, at = keys[:, shard.columns].max(dim=1)
    best, bits = shard.gather(torch.stack([best, (at + shard.start).int().view(torch.float32)])).unbind(1)
    return torch.where(best == best.amax(0), bits.view(torch.int32) & NO_TOKEN, NO_TOKEN).amin(0).long()
