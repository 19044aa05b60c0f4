"""Reduce the partial results of a pass over the vocabulary to the token with the greatest key."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels.heads import NO_TOKEN, Shard

BLOCK_ROWS = 16
# Fields of a partial result and of a rank's result: best key, its token (int32 bits).
FIELDS = 2
_K_FIELDS = tl.constexpr(FIELDS)
_K_NONE = tl.constexpr(NO_TOKEN)


@triton.jit
def best_candidate(
    partials, row, in_rows, rows, count, FIELDS: tl.constexpr, MERGED: tl.constexpr, BLOCK_COUNT: tl.constexpr
):
    """Best key of ``count`` candidates a row and the lowest token that has it.

    Candidates are the parts of one rank, [fields, count, rows], or where ``MERGED`` the results of ``count`` ranks,
    [count, FIELDS, rows].

    Returns:
        The best key and its token [ROWS]; tokens, validity and addresses of all candidates [COUNT, ROWS], and the
        distance in memory from one field to the next.
    """
    index = tl.arange(0, BLOCK_COUNT)
    inside = (index < count)[:, None] & in_rows[None, :]
    if MERGED:
        at = partials + (index * FIELDS * rows)[:, None] + row[None, :]
        field = rows
    else:
        at = partials + (index * rows)[:, None] + row[None, :]
        field = count * rows
    key = tl.load(at, inside, float("-inf"))
    # SGLang's gather over NVLink turns 0 into -0, which sets the sign bit of token 0.
    token = tl.load(at + field, inside, 0.0).to(tl.int32, bitcast=True) & _K_NONE
    token = tl.where(inside, token, _K_NONE)
    best = tl.max(key, 0)
    winner = tl.min(tl.where(key == best[None, :], token, _K_NONE), 0)
    return best, winner, token, inside, at, field


@triton.jit(do_not_specialize=["rows", "count"])
def argmax_partials(
    partials,
    out,
    rows,
    count,
    TO_MERGE: tl.constexpr,
    MERGED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COUNT: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    best, winner, _token, _inside, _at, _field = best_candidate(
        partials, row, in_rows, rows, count, _K_FIELDS, MERGED, BLOCK_COUNT
    )
    if TO_MERGE:
        tl.store(out + row, best, in_rows)
        tl.store(out + rows + row, winner.to(tl.float32, bitcast=True), in_rows)
    else:
        tl.store(out + row, winner.to(tl.int64), in_rows)


def launch_argmax(partials: torch.Tensor, shard: Shard | None = None) -> torch.Tensor:
    """Token of the greatest key, int64 [R], from float32 [FIELDS, parts, R]; over all ranks if ``shard`` is given."""
    if shard is None:
        return _launch(partials, False, False)
    return _launch(shard.gather(_launch(partials, True, False)), False, True)


def _launch(partials: torch.Tensor, to_merge: bool, merged: bool) -> torch.Tensor:
    """Return the greatest key and its token, float32 [FIELDS, R], if ``to_merge``, otherwise the token int64 [R]."""
    count, rows, device = partials.shape[0 if merged else 1], partials.shape[2], partials.device
    shape, dtype = ((FIELDS, rows), torch.float32) if to_merge else ((rows,), torch.int64)
    out = torch.empty(shape, dtype=dtype, device=device)
    argmax_partials[(triton.cdiv(rows, BLOCK_ROWS),)](
        partials,
        out,
        rows,
        count,
        TO_MERGE=to_merge,
        MERGED=merged,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COUNT=triton.next_power_of_2(count),
        num_warps=4,
    )
    return out


def reference_argmax(keys: torch.Tensor, shard: Shard | None = None) -> torch.Tensor:
    """PyTorch reference over all keys float32 [R, V], of which a rank uses those of its shard."""
    if shard is None:
        return keys.argmax(dim=1)
    best, at = keys[:, shard.columns].max(dim=1)
    best, bits = shard.gather(torch.stack([best, (at + shard.start).int().view(torch.float32)])).unbind(1)
    return reference_lowest(best, bits.view(torch.int32) & NO_TOKEN)


def reference_lowest(best: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The lowest token, int64 [R], of those with the greatest key, both [ranks, R]."""
    return torch.where(best == best.amax(0), tokens, NO_TOKEN).amin(0).long()
