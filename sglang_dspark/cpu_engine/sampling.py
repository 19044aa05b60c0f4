"""Chain speculative sampling in PyTorch (``speculative_sampling_classic_kernel``)."""

from __future__ import annotations

from collections.abc import Callable

import torch


def chain_speculative_sampling(
    original: Callable[..., None],
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    uniform_samples: torch.Tensor,
    uniform_samples_for_final_sampling: torch.Tensor,
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    threshold_single: float,
    threshold_acc: float,
    deterministic: bool,
    *,
    block_verification: bool = False,
) -> None:
    """Around the Triton kernel: accepts each draft with ``min(1, p/q)``, then draws from what the drafts left over.

    Args:
        predicts: int32 [R * (gamma + 1)], written: the token at each accepted slot, then the drawn one.
        accept_index: int32 [R, gamma + 1], written: the slots along the accepted chain.
        accept_token_num: int32 [R], written: drafts accepted.
        candidates: int64 [R, gamma + 1], the anchor and the drafts.
        retrive_index: int64 [R, gamma + 1], the slot of each candidate.
        uniform_samples: float32 [R, gamma], the coins of the drafts.
        uniform_samples_for_final_sampling: float32 [R].
        target_probs: float32 [R, gamma + 1, V].
        draft_probs: float32 [R, gamma, V].

    Raises:
        NotImplementedError: Block verification, which has no CPU form.
    """
    if candidates.is_cuda:
        original(
            predicts,
            accept_index,
            accept_token_num,
            candidates,
            retrive_index,
            retrive_next_token,
            retrive_next_sibling,
            uniform_samples,
            uniform_samples_for_final_sampling,
            target_probs,
            draft_probs,
            threshold_single,
            threshold_acc,
            deterministic,
            block_verification=block_verification,
        )
        return
    if block_verification:
        raise NotImplementedError("block verification has no CPU form; leave out --speculative-use-block-verification")
    requests, slots = candidates.shape
    gamma = slots - 1
    rows = torch.arange(requests)
    drafts = candidates[:, 1:].long()
    p = target_probs[:, :gamma].gather(2, drafts[:, :, None]).squeeze(2)
    q = draft_probs.gather(2, drafts[:, :, None]).squeeze(2)
    # A proposal that is no probability (0, NaN, infinite) is never accepted, whatever the coin.
    taken = (q > 0) & (q <= 1) & (uniform_samples[:, :gamma] * q < p)
    accepted = taken.long().cumprod(dim=1).sum(dim=1)
    rest = target_probs[rows, accepted].float()
    if gamma:
        rejected = accepted < gamma
        proposed = draft_probs[rows, accepted.clamp(max=gamma - 1)].float()
        proposed = torch.where((proposed >= 0) & (proposed <= 1) & rejected[:, None], proposed, 0.0)
        rest = (rest - proposed).clamp(min=0.0)
    drawn = _draw(rest, uniform_samples_for_final_sampling)
    slot = retrive_index.long()
    along = torch.arange(slots) <= accepted[:, None]
    accept_index[:requests] = torch.where(along, slot, accept_index[:requests].long()).to(accept_index.dtype)
    before = torch.arange(gamma) < accepted[:, None]
    predicts[slot[:, :gamma][before]] = drafts[before].to(predicts.dtype)
    predicts[slot[rows, accepted]] = drawn.to(predicts.dtype)
    accept_token_num[:requests] = accepted.to(accept_token_num.dtype)


def _draw(weights: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    """One index a row with chances in proportion to ``weights`` [R, V], by inverting their sum; the last if none."""
    total = weights.cumsum(dim=1)
    beyond = total > (coins.view(-1) * total[:, -1])[:, None]
    last = torch.full((len(weights),), weights.shape[1] - 1)
    return torch.where(beyond.any(dim=1), beyond.long().argmax(dim=1), last)
