"""Draw the token that ends a round: from the residual ``max(p - q, 0)``, or from the target if all was accepted.

One pass over the vocabulary serves all requests. The proposal at the rejected position is recomputed from the base
logits, the latent and ``W2``, or read from the corrected logits where a CUDA graph has kept them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels import launch_configs
from dspark_kernels.batches import VerifiedBatch
from dspark_kernels.heads import NO_TOKEN
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_tile import corrected, load_latents
from dspark_kernels.philox import RESIDUAL, exponentials, reference_exponentials
from dspark_kernels.target_rows import TargetRows, scaled_logits

_K_RESIDUAL = tl.constexpr(RESIDUAL)
_K_NONE = tl.constexpr(NO_TOKEN)
# Where rounding leaves an empty residual the target replaces it, with log-weights lower by this: exp(-46) is 1e-20.
STAND_IN = 46.0
_K_STAND_IN = tl.constexpr(STAND_IN)


@triton.jit(do_not_specialize=["rows", "seed", "vocab_start"], do_not_specialize_on_alignment=["drafts"])
def residual_scan(
    target,
    starts,
    lengths,
    accepted,
    drafts,
    temperatures,
    draft_temperatures,
    requests,
    positions,
    target_log_sums,
    thresholds,
    best_tokens,
    logits,
    log_sums,
    latents,
    anchors,
    w2,
    partials,
    rows,
    gamma,
    width,
    rank,
    vocab_start,
    seed,
    target_stride,
    logits_stride,
    position_stride,
    latents_stride,
    ONE_HOT: tl.constexpr,
    CORRECT: tl.constexpr,
    GATHER: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCAB: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    part, parts = tl.program_id(1), tl.num_programs(1)
    in_rows = row < rows
    row64 = row.to(tl.int64)
    index = tl.load(accepted + row, in_rows, 0)
    rejected = in_rows & (index < tl.load(lengths + row, in_rows, 0))
    target_row = tl.load(starts + row, in_rows, 0) + index
    temperature = tl.load(temperatures + row, in_rows, 0.0)
    greedy = temperature <= 0
    scale = 1.0 / tl.where(greedy, 1.0, temperature)
    target_log_sum = tl.load(target_log_sums + target_row, in_rows, 0.0)
    threshold = tl.load(thresholds + target_row, in_rows, 0.0)
    top = tl.load(best_tokens + target_row, in_rows, 0).to(tl.int32)
    request = tl.load(requests + row, in_rows, 0)
    position = tl.load(positions + row, in_rows, 0)
    draft = tl.load(drafts + row64 * gamma + index, rejected, 0).to(tl.int32)
    if not ONE_HOT:
        draft_temperature = tl.load(draft_temperatures + row, in_rows, 0.0)
        drawn = rejected & (draft_temperature > 0)
        draft_scale = 1.0 / tl.where(draft_temperature > 0, draft_temperature, 1.0)
        log_sum = tl.load(log_sums + row64 * gamma + index, drawn, 0.0)
        if CORRECT:
            inner = tl.arange(0, BLOCK_RANK)
            in_rank = inner < rank
            place = row64 * gamma + index
            if GATHER:
                before = tl.load(drafts + place - 1, drawn & (index > 0), 0)
                place = tl.where(index > 0, before, tl.load(anchors + row, drawn, 0))
            latent = load_latents(latents, place, drawn, inner, in_rank, latents_stride, w2.dtype.element_ty)
            # W2 is not read where no row of the block has a rejected sampled draft.
            in_rank = inner < rank * tl.max(drawn.to(tl.int32), 0)

    best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    token = tl.full([BLOCK_ROWS], _K_NONE, tl.int32)
    for tile in tl.range(part, tl.cdiv(width, BLOCK_VOCAB), parts, num_stages=STAGES):
        column = tile * BLOCK_VOCAB + tl.arange(0, BLOCK_VOCAB)
        in_width = column < width
        number = column[None, :] + vocab_start
        inside = in_rows[:, None] & in_width[None, :]
        # A greedy row has its argmax already; its logits are not read again.
        at = target + target_row[:, None] * target_stride + number
        value = scaled_logits(at, inside & (greedy == 0)[:, None], scale[:, None])
        log_p = tl.where(value >= threshold[:, None], value - target_log_sum[:, None], float("-inf"))
        log_p = tl.where(greedy[:, None], tl.where(number == top[:, None], 0.0, float("-inf")), log_p)
        log_p = tl.where((log_p == log_p) & inside, log_p, float("-inf"))
        certain = (number == draft[:, None]) & rejected[:, None]
        if ONE_HOT:
            q = tl.where(certain, 1.0, 0.0)
        else:
            at = logits + row64[:, None] * logits_stride + index[:, None] * position_stride + column[None, :]
            base = tl.load(at, drawn[:, None] & in_width[None, :], float("-inf")).to(tl.float32)
            if CORRECT:
                base = corrected(latent, w2, base, column, in_width, inner, in_rank, rank, PRECISION)
            q = tl.exp(base * draft_scale[:, None] - log_sum[:, None])
            q = tl.where(q == q, q, 0.0)
            q = tl.where(drawn[:, None], q, tl.where(certain, 1.0, 0.0))
        rest = tl.exp(log_p) - q
        key = tl.maximum(tl.where(rest > 0, tl.log(rest), float("-inf")), log_p - _K_STAND_IN)
        noise = exponentials(
            seed, request, position, index, vocab_start + tile * BLOCK_VOCAB, _K_RESIDUAL, BLOCK_ROWS, BLOCK_VOCAB
        )
        key -= tl.log(noise)
        tile_best = tl.max(key, 1)
        tile_token = tl.min(tl.where((key == tile_best[:, None]) & in_width[None, :], number, _K_NONE), 1)
        better = (tile_best > best) | (token == _K_NONE)
        best = tl.where(better, tile_best, best)
        token = tl.where(better, tile_token, token)
    out = partials + part * rows + row
    tl.store(out, best, in_rows)
    tl.store(out + parts * rows, token.to(tl.float32, bitcast=True), in_rows)


def launch_residual_scan(
    batch: VerifiedBatch, rows: TargetRows, accepted: torch.Tensor, config: ScanConfig | None = None
) -> torch.Tensor:
    """Launch the pass on a checked batch.

    Args:
        accepted: int32 [R].

    Returns:
        float32 [2, parts, R]: best key and its token (int32 bits).
    """
    target, proposal = batch.target_logits, batch.proposal
    count, gamma = batch.drafts.shape
    head = None if proposal is None else proposal.head
    width = target.shape[1] if proposal is None else proposal.logits.shape[2]
    config = config or launch_configs.residual_scan(target.device, count, 2 if head is None else head.w2.element_size())
    grid = (triton.cdiv(count, config.block_rows), config.parts(width, count))
    partials = torch.empty((2, grid[1], count), dtype=torch.float32, device=target.device)
    logits = target if proposal is None else proposal.logits
    latents = None if proposal is None else proposal.latents
    source = target if head is None else (head.w1 if latents is None else latents)
    residual_scan[grid](
        target,
        batch.starts,
        batch.lengths,
        accepted,
        batch.drafts,
        batch.temperatures,
        batch.temperatures if proposal is None else proposal.temperatures,
        batch.requests,
        batch.positions,
        *rows,
        logits,
        batch.temperatures if proposal is None else proposal.log_sums,
        source,
        batch.starts if proposal is None else proposal.anchors,
        target if head is None else head.w2,
        partials,
        count,
        gamma,
        width,
        1 if head is None else head.rank,
        0 if proposal is None or proposal.shard is None else proposal.shard.start,
        batch.seed,
        target.stride(0),
        logits.stride(0),
        logits.stride(1),
        1 if head is None else head.rank,
        ONE_HOT=proposal is None,
        CORRECT=head is not None,
        GATHER=latents is None,
        PRECISION=launch_configs.of(target.device).precision,
        BLOCK_ROWS=config.block_rows,
        BLOCK_VOCAB=config.block_vocab,
        BLOCK_RANK=16 if head is None else max(16, triton.next_power_of_2(head.rank)),
        STAGES=config.stages,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partials


def reference_residual(batch: VerifiedBatch, p: torch.Tensor, q: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
    """PyTorch reference: keys float32 [R, V], whose argmax is the token.

    Args:
        p, q: float32 [R, V], target and proposal at the row that ends the round; ``q`` is 0 after full acceptance.
        accepted: int32 [R].
    """
    rest = (p - q).clamp(min=0.0)
    noise = reference_exponentials(
        batch.seed, batch.requests, batch.positions, accepted.long(), 0, p.shape[1], RESIDUAL
    )
    return torch.maximum(rest.log(), p.log() - STAND_IN) - noise.log()
