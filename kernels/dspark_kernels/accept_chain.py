"""Chain rejection sampling over ragged rows: how many drafts of each request the target accepts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

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
    # A comparison with NaN is false: a proposal or target that is no probability accepts nothing.
    ends = inside & ((u * q < p) == 0)
    first = tl.min(tl.where(ends, index, GAMMA), 0)
    tl.store(accepted + request, tl.minimum(first, length))


def launch_accept_chain(
    logits: torch.Tensor,
    rows: TargetRows,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    drafts: torch.Tensor,
    draft_log_probs: torch.Tensor | None,
    temperatures: torch.Tensor,
    draft_temperatures: torch.Tensor,
    requests: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
) -> torch.Tensor:
    """Accepts draft k with ``min(1, p / q)``, one after the other.

    Args:
        drafts: int64 [R, gamma].
        draft_log_probs: float32 [R, gamma], of the drafts in the proposal; None where every draft was certain.
        temperatures, draft_temperatures: float32 [R] of target and proposal; at 0 they are certain of one token.
        positions: int64 [R], of the anchors.

    Returns:
        int32 [R], drafts accepted, at most ``lengths``.
    """
    count, gamma = drafts.shape
    accepted = torch.empty(count, dtype=torch.int32, device=logits.device)
    accept_chain[(count,)](
        logits,
        starts,
        lengths,
        drafts,
        temperatures if draft_log_probs is None else draft_log_probs,
        temperatures,
        draft_temperatures,
        requests,
        positions,
        *rows,
        accepted,
        seed,
        logits.stride(0),
        GAMMA=gamma,
        ONE_HOT=draft_log_probs is None,
        BLOCK_GAMMA=triton.next_power_of_2(gamma),
        num_warps=1,
    )
    return accepted


def reference_accept_chain(
    p: torch.Tensor, q: torch.Tensor, lengths: torch.Tensor, requests: torch.Tensor, positions: torch.Tensor, seed: int
) -> torch.Tensor:
    """Reference: ``p`` and ``q`` float32 [R, gamma] are the drafts' probabilities."""
    index = torch.arange(p.shape[1], device=p.device)
    u = reference_coins(seed, requests[:, None], positions[:, None], index)
    taken = (u * q < p) & (index < lengths[:, None])
    return taken.int().cumprod(dim=1).sum(dim=1).to(torch.int32)
