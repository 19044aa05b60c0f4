"""Acceptance of a verified batch: chain rejection sampling over ragged rows, and the token that ends the round."""

from __future__ import annotations

from typing import NamedTuple

import torch

from dspark_kernels import checks
from dspark_kernels.accept_chain import launch_accept_chain, reference_accept_chain
from dspark_kernels.argmax_partials import launch_pick, reference_pick
from dspark_kernels.heads import reference_latent
from dspark_kernels.interpreter import launches
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.residual_scan import Proposal, launch_residual_scan, reference_residual
from dspark_kernels.target_rows import launch_target_rows, reference_target_rows


class Accepted(NamedTuple):
    """The outcome of a round.

    Attributes:
        lengths: int32 [R], drafts accepted, at most those verified.
        tokens: int64 [R], the token after them: from the residual, or the bonus token.
    """

    lengths: torch.Tensor
    tokens: torch.Tensor


def accept(
    target_logits: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    drafts: torch.Tensor,
    proposal: Proposal | None,
    *,
    temperatures: torch.Tensor,
    top_ks: torch.Tensor | None = None,
    top_ps: torch.Tensor | None = None,
    requests: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
    scan: ScanConfig | None = None,
) -> Accepted:
    """Accepts drafts so that what comes out is distributed as the target alone would have it.

    Args:
        target_logits: [N, V], after all adjustments; rows of any stride.
        starts: int64 [R], a request's first row: that of its anchor.
        lengths: int32 [R], drafts that were verified, 0..gamma; a request's rows are its anchor's and theirs.
        drafts: int64 [R, gamma].
        proposal: What they were drawn from; None where every draft was certain (argmax).
        temperatures: float32 [R], of the target; 0 is argmax.
        top_ks, top_ps: int32 (1 or more) and float32 [R], top-k first; None where nobody asks.
        requests: int64 [R], what names a row's request.
        positions: int64 [R], of the anchors.
        seed: With request and position, names the draws.

    Raises:
        ValueError: An argument does not fit; it is named.
    """
    checks.tensor("target_logits", target_logits, checks.LOGITS, (None, None), target_logits, rows_only=True)
    checks.between("target_logits: columns", target_logits.shape[1], 1, checks.MAX_VOCAB)
    checks.tensor("drafts", drafts, torch.int64, (None, None), target_logits)
    count, gamma = drafts.shape
    checks.between("drafts: rows", count, 1, checks.MAX_ROWS)
    checks.between("drafts: gamma", gamma, 1, checks.MAX_GAMMA)
    for name, value, dtype in (
        ("starts", starts, torch.int64),
        ("lengths", lengths, torch.int32),
        ("temperatures", temperatures, torch.float32),
        ("requests", requests, torch.int64),
        ("positions", positions, torch.int64),
    ):
        checks.tensor(name, value, dtype, (count,), target_logits)
    if top_ks is not None:
        checks.tensor("top_ks", top_ks, torch.int32, (count,), target_logits)
    if top_ps is not None:
        checks.tensor("top_ps", top_ps, torch.float32, (count,), target_logits)
    if proposal is not None:
        _check(proposal, target_logits, count, gamma)
    if not launches(target_logits):
        return reference_accept(
            target_logits, starts, lengths, drafts, proposal, temperatures, top_ks, top_ps, requests, positions, seed
        )
    rows = launch_target_rows(target_logits, starts, lengths, gamma, temperatures, top_ks, top_ps)
    draft_temperatures = temperatures if proposal is None else proposal.temperatures
    log_probs = None if proposal is None else proposal.log_probs
    accepted = launch_accept_chain(
        target_logits,
        rows,
        starts,
        lengths,
        drafts,
        log_probs,
        temperatures,
        draft_temperatures,
        requests,
        positions,
        seed,
    )
    partials = launch_residual_scan(
        target_logits,
        rows,
        starts,
        lengths,
        accepted,
        drafts,
        temperatures,
        proposal,
        requests,
        positions,
        seed,
        scan,
    )
    return Accepted(accepted, launch_pick(partials, None if proposal is None else proposal.shard))


def _check(proposal: Proposal, like: torch.Tensor, count: int, gamma: int) -> None:
    checks.tensor("proposal.logits", proposal.logits, checks.LOGITS, (count, gamma, None), like, rows_only=True)
    width = proposal.logits.shape[2]
    if proposal.shard is not None:
        proposal.shard.check("proposal.shard", width)
    end = width if proposal.shard is None else proposal.shard.end
    checks.between("proposal: tokens", end, 1, like.shape[1])
    for name, value in (("log_sums", proposal.log_sums), ("log_probs", proposal.log_probs)):
        checks.tensor(f"proposal.{name}", value, torch.float32, (count, gamma), like)
    checks.tensor("proposal.temperatures", proposal.temperatures, torch.float32, (count,), like)
    checks.tensor("proposal.anchors", proposal.anchors, torch.int64, (count,), like)
    if (head := proposal.head) is not None:
        head.check()
        checks.tensor("proposal.head.w2", head.w2, checks.LOGITS, (width, head.rank), like)
        if head.kind != "vanilla":
            if proposal.latents is None:
                raise ValueError(f"proposal.latents: missing, expected those of a {head.kind} head")
            checks.tensor("proposal.latents", proposal.latents, head.w2.dtype, (count, gamma, head.rank), like)


def reference_accept(
    target_logits: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    drafts: torch.Tensor,
    proposal: Proposal | None,
    temperatures: torch.Tensor,
    top_ks: torch.Tensor | None,
    top_ps: torch.Tensor | None,
    requests: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
) -> Accepted:
    """Reference of :func:`accept`, over whole distributions."""
    count, gamma = drafts.shape
    # Rows that were not verified stand for nothing; any row will do.
    index = torch.minimum(torch.arange(gamma + 1, device=lengths.device), lengths[:, None])
    rows = (starts[:, None] + index).flatten()
    per_row = [None if one is None else one.repeat_interleave(gamma + 1) for one in (temperatures, top_ks, top_ps)]
    assert per_row[0] is not None
    logits = target_logits[rows]
    found = reference_target_rows(logits, per_row[0], per_row[1], per_row[2])
    scaled = logits.float() / torch.where(per_row[0] > 0, per_row[0], 1.0)[:, None]
    scaled = torch.where(scaled.isnan(), -torch.inf, scaled.clamp(max=3.0e38))
    p = torch.exp(scaled - found.log_sums[:, None]).masked_fill(scaled < found.thresholds[:, None], 0.0).nan_to_num(0.0)
    greedy = torch.nn.functional.one_hot(found.best, p.shape[1]).float()
    p = torch.where((per_row[0] > 0)[:, None], p, greedy).view(count, gamma + 1, -1)
    certain = torch.nn.functional.one_hot(drafts, p.shape[2]).float()
    q = certain if proposal is None else _reference_proposal(proposal, drafts, certain)
    taken = [probabilities.gather(2, drafts[:, :, None]).squeeze(2) for probabilities in (p[:, :gamma], q)]
    if proposal is not None:
        drawn = torch.where(proposal.log_probs.isnan(), torch.nan, proposal.log_probs.clamp(max=0.0).exp())
        taken[1] = torch.where((proposal.temperatures > 0)[:, None], drawn, taken[1])
    accepted = reference_accept_chain(taken[0], taken[1], lengths, requests, positions, seed)
    each = torch.arange(count, device=drafts.device)
    rejected = (accepted < lengths)[:, None]
    last = torch.where(rejected, q[each, accepted.clamp(max=gamma - 1).long()], 0.0)
    keys = reference_residual(p[each, accepted.long()], last, requests, positions, accepted, seed)
    return Accepted(accepted, reference_pick(keys, None if proposal is None else proposal.shard))


def _reference_proposal(proposal: Proposal, drafts: torch.Tensor, certain: torch.Tensor) -> torch.Tensor:
    """The proposal's distributions, float32 [R, gamma, V]."""
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
    # A shard knows the distribution of its own tokens only.
    q = torch.zeros_like(certain)
    q[:, :, slice(None) if proposal.shard is None else proposal.shard.columns] = own.nan_to_num(nan=0.0)
    return torch.where(temperatures > 0, q, certain)
