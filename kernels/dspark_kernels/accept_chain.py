"""Chain rejection sampling over ragged rows: count the drafts of each request that the target accepts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels.batches import VerifiedBatch
from dspark_kernels.philox import COIN, coin, reference_coins
from dspark_kernels.target_rows import TargetRows, scaled_logits

_K_COIN = tl.constexpr(COIN)


@triton.jit(do_not_specialize=["seed"], do_not_specialize_on_alignment=["drafts"])
def accept_chain(
    logits,
    starts,
    lengths,
    drafts,
    draft_log_probs,
    temperatures,
    draft_temperatures,
    requests,
    positions,
    log_sums,
    thresholds,
    best,
    accepted,
    seed,
    stride,
    GAMMA: tl.constexpr,
    ONE_HOT: tl.constexpr,
    BLOCK_GAMMA: tl.constexpr,
):
    request = tl.program_id(0)
    index = tl.arange(0, BLOCK_GAMMA)
    length = tl.load(lengths + request)
    inside = (index < length) & (index < GAMMA)
    row = tl.load(starts + request) + index
    token = tl.load(drafts + request * GAMMA + index, inside, 0)
    temperature = tl.load(temperatures + request)
    value = scaled_logits(logits + row * stride + token, inside, 1.0 / tl.where(temperature > 0, temperature, 1.0))
    kept = value >= tl.load(thresholds + row, inside, 0.0)
    p = tl.where(kept, tl.exp(value - tl.load(log_sums + row, inside, 0.0)), 0.0)
    p = tl.where(temperature > 0, p, (token == tl.load(best + row, inside, 0)).to(tl.float32))
    q = inside.to(tl.float32)
    if not ONE_HOT:
        drawn = tl.load(draft_temperatures + request) > 0
        log_q = tl.load(draft_log_probs + request * GAMMA + index, inside, 0.0)
        # Rounding may leave a logarithm above 0; a NaN stays one.
        q = tl.where(drawn, tl.exp(tl.where(log_q > 0, 0.0, log_q)), q)
    name, position = tl.load(requests + request) + index * 0, tl.load(positions + request) + index * 0
    u = coin(seed, name, position, index, _K_COIN)
    # A comparison with NaN is false, so a proposal or target that is not a probability accepts nothing.
    ends = inside & ((u * q < p) == 0)
    first = tl.min(tl.where(ends, index, GAMMA), 0)
    tl.store(accepted + request, tl.minimum(first, length))


def launch_accept_chain(batch: VerifiedBatch, rows: TargetRows) -> torch.Tensor:
    """Accept draft k with probability ``min(1, p / q)``, left to right, up to the first rejection.

    Returns:
        int32 [R], drafts accepted, at most ``lengths``.
    """
    logits, proposal = batch.target_logits, batch.proposal
    count, gamma = batch.drafts.shape
    accepted = torch.empty(count, dtype=torch.int32, device=logits.device)
    accept_chain[(count,)](
        logits,
        batch.starts,
        batch.lengths,
        batch.drafts,
        batch.temperatures if proposal is None else proposal.log_probs,
        batch.temperatures,
        batch.temperatures if proposal is None else proposal.temperatures,
        batch.requests,
        batch.positions,
        *rows,
        accepted,
        batch.seed,
        logits.stride(0),
        GAMMA=gamma,
        ONE_HOT=proposal is None,
        BLOCK_GAMMA=triton.next_power_of_2(gamma),
        num_warps=1,
    )
    return accepted


def reference_accept_chain(batch: VerifiedBatch, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """PyTorch reference; ``p`` and ``q`` float32 [R, gamma] are the probabilities of the drafts."""
    index = torch.arange(p.shape[1], device=p.device)
    u = reference_coins(batch.seed, batch.requests[:, None], batch.positions[:, None], index)
    taken = (u * q < p) & (index < batch.lengths[:, None])
    return taken.int().cumprod(dim=1).sum(dim=1).to(torch.int32)
