"""Accept a verified batch: chain rejection sampling over ragged rows, then the token that ends the round."""

from __future__ import annotations

from typing import NamedTuple

import torch

from dspark_kernels.accept_chain import launch_accept_chain, reference_accept_chain
from dspark_kernels.argmax_partials import launch_argmax, reference_argmax
from dspark_kernels.batches import KeptProposal, VerifiedBatch
from dspark_kernels.heads import reference_latent
from dspark_kernels.interpreter import launches
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.residual_scan import launch_residual_scan, reference_residual
from dspark_kernels.target_rows import launch_target_rows, reference_probabilities


class Accepted(NamedTuple):
    """The result of a round for R requests.

    Attributes:
        lengths: int32 [R], drafts accepted, at most the number verified.
        tokens: int64 [R], the next token: drawn from the residual after a rejection, otherwise the bonus token.
    """

    lengths: torch.Tensor
    tokens: torch.Tensor


def accept(batch: VerifiedBatch, scan: ScanConfig | None = None) -> Accepted:
    """Accept drafts so that the output has exactly the target's distribution.

    Args:
        scan: Replaces the launch configuration of the residual pass.

    Raises:
        ValueError: A tensor does not fit; the message names it.
    """
    batch.check()
    if not launches(batch.target_logits):
        return reference_accept(batch)
    rows = launch_target_rows(batch)
    accepted = launch_accept_chain(batch, rows)
    partials = launch_residual_scan(batch, rows, accepted, scan)
    return Accepted(accepted, launch_argmax(partials, None if batch.proposal is None else batch.proposal.shard))


def reference_accept(batch: VerifiedBatch) -> Accepted:
    """PyTorch reference of :func:`accept`, over whole distributions."""
    drafts, proposal = batch.drafts, batch.proposal
    count, gamma = drafts.shape
    # Rows past the verified ones are never read; repeat the last so that the index stays in range.
    index = torch.minimum(torch.arange(gamma + 1, device=drafts.device), batch.lengths[:, None])
    rows = (batch.starts[:, None] + index).flatten()
    temperatures = batch.temperatures.repeat_interleave(gamma + 1)
    top_ks, top_ps = (
        None if each is None else each.repeat_interleave(gamma + 1) for each in (batch.top_ks, batch.top_ps)
    )
    p = reference_probabilities(batch.target_logits[rows], temperatures, top_ks, top_ps).view(count, gamma + 1, -1)
    one_hot = torch.nn.functional.one_hot(drafts, p.shape[2]).float()
    q = one_hot if proposal is None else _reference_proposal(proposal, drafts, one_hot)
    p_drafts, q_drafts = (each.gather(2, drafts[:, :, None]).squeeze(2) for each in (p[:, :gamma], q))
    if proposal is not None:
        drawn = torch.where(proposal.log_probs.isnan(), torch.nan, proposal.log_probs.clamp(max=0.0).exp())
        q_drafts = torch.where((proposal.temperatures > 0)[:, None], drawn, q_drafts)
    accepted = reference_accept_chain(batch, p_drafts, q_drafts)
    each = torch.arange(count, device=drafts.device)
    rejected = (accepted < batch.lengths)[:, None]
    last = torch.where(rejected, q[each, accepted.clamp(max=gamma - 1).long()], 0.0)
    keys = reference_residual(batch, p[each, accepted.long()], last, accepted)
    return Accepted(accepted, reference_argmax(keys, None if proposal is None else proposal.shard))


def _reference_proposal(proposal: KeptProposal, drafts: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """The proposal's distributions, float32 [R, gamma, V]; ``one_hot`` are those of argmax drafts."""
    value = proposal.logits.float()
    if (head := proposal.head) is not None:
        if proposal.latents is not None:
            latents = proposal.latents.float()
        else:
            before = torch.cat([proposal.anchors[:, None], drafts[:, :-1]], dim=1)
            latents = reference_latent(head, before.flatten(), None, None)[0].view(*drafts.shape, -1)
        value = value + latents @ head.w2.float().T
    temperatures = proposal.temperatures[:, None, None]
    own = torch.exp(value / torch.where(temperatures > 0, temperatures, 1.0) - proposal.log_sums[:, :, None])
    # A rank knows the probabilities of its own shard only.
    q = torch.zeros_like(one_hot)
    q[:, :, slice(None) if proposal.shard is None else proposal.shard.columns] = own.nan_to_num(nan=0.0)
    return torch.where(temperatures > 0, q, one_hot)
