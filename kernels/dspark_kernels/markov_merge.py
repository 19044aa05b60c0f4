"""Merge the partial results of a rank's shard of the vocabulary into the four numbers a row that ranks exchange."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from dspark_kernels.argmax_partials import best_candidate
from dspark_kernels.markov_scan import FIELDS

# Fields of a merged result: best key, its token (int32 bits), its scaled logit, log-sum-exp of the scaled logits.
MERGED_FIELDS: Final = 4
BLOCK_ROWS: Final = 16
_K_FIELDS = tl.constexpr(MERGED_FIELDS)


@triton.jit
def combine(partials, row, in_rows, rows, count, MERGED: tl.constexpr, BLOCK_COUNT: tl.constexpr):
    """Best key, token, scaled logit and log-sum-exp of ``count`` parts, or of the merged results of ``count`` ranks."""
    best, winner, token, inside, at, field = best_candidate(
        partials, row, in_rows, rows, count, _K_FIELDS, MERGED, BLOCK_COUNT
    )
    value = tl.load(at + 2 * field, inside, float("-inf"))
    top = tl.load(at + 3 * field, inside, float("-inf"))
    mass = tl.where(inside, 1.0, 0.0) if MERGED else tl.load(at + 4 * field, inside, 0.0)
    chosen = tl.max(tl.where(token == winner[None, :], value, float("-inf")), 0)
    highest = tl.max(top, 0)
    origin = tl.where(highest > float("-inf"), highest, 0.0)
    log_sum = highest + tl.log(tl.sum(mass * tl.exp(top - origin[None, :]), 0))
    return best, winner, chosen, log_sum


@triton.jit(do_not_specialize=["rows", "parts"])
def markov_merge(partials, out, rows, parts, BLOCK_ROWS: tl.constexpr, BLOCK_PARTS: tl.constexpr):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    best, token, chosen, log_sum = combine(partials, row, in_rows, rows, parts, False, BLOCK_PARTS)
    tl.store(out + row, best, in_rows)
    tl.store(out + rows + row, token.to(tl.float32, bitcast=True), in_rows)
    tl.store(out + 2 * rows + row, chosen, in_rows)
    tl.store(out + 3 * rows + row, log_sum, in_rows)


def merge(partials: torch.Tensor) -> torch.Tensor:
    """float32 [MERGED_FIELDS, R] from :func:`dspark_kernels.markov_scan.scan`'s [FIELDS, parts, R]."""
    fields, parts, rows = partials.shape
    assert fields == FIELDS
    out = torch.empty((MERGED_FIELDS, rows), dtype=torch.float32, device=partials.device)
    markov_merge[(triton.cdiv(rows, BLOCK_ROWS),)](
        partials, out, rows, parts, BLOCK_ROWS=BLOCK_ROWS, BLOCK_PARTS=triton.next_power_of_2(parts), num_warps=4
    )
    return out


def reference_merge(scaled: torch.Tensor, keys: torch.Tensor, start: int) -> torch.Tensor:
    """PyTorch reference, over all scaled logits and keys float32 [R, V] of tokens from ``start``."""
    best, at = keys.max(dim=1)
    token = (at + start).int().view(torch.float32)
    return torch.stack([best, token, scaled.gather(1, at[:, None]).squeeze(1), torch.logsumexp(scaled, dim=1)])
