"""Training losses: DSpark's three terms (arXiv 2607.05147, section 3.3), of which DFlash uses one, and Eagle3's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sglang_dspark.drafter.base import TeacherForced, accepted


class Weights(NamedTuple):
    """The weight of each loss term, and the ratio of a position's weight to that of the position before it."""

    cross_entropy: float
    total_variation: float
    confidence: float
    distillation: float
    """Cross entropy against the target's distribution."""

    place_ratio: float


class Losses(NamedTuple):
    """The weighted sum to minimise and its unweighted terms, all scalars; terms of weight 0 are 0."""

    total: Tensor
    cross_entropy: Tensor
    total_variation: Tensor
    confidence: Tensor
    distillation: Tensor


def losses(forced: TeacherForced, weights: Weights) -> Losses:
    """Compute the losses of blocks, averaged over their known positions with the positions' weights.

    The total variation term is the L1 distance, twice the rejection probability. The confidence head learns the
    acceptance probability under rejection sampling at temperature 1; its term has no gradient to the draft logits.
    """
    positions = torch.arange(forced.labels.shape[1], device=forced.labels.device)
    share = forced.known * weights.place_ratio**positions
    # Without a known position all terms are 0, not NaN.
    share = share / share.sum().clamp(min=1e-6)
    zero = forced.draft_logits.new_zeros(())
    entropy = distance = doubt = distillation = zero
    if weights.cross_entropy:
        logits, labels = forced.draft_logits.flatten(0, 1), forced.labels.flatten()
        entropy = (share * functional.cross_entropy(logits, labels, reduction="none").view_as(share)).sum()
    if weights.distillation:
        aims = forced.target_logits.softmax(-1)
        distillation = -(share * (aims * forced.draft_logits.log_softmax(-1)).sum(-1)).sum()
    confident = weights.confidence and forced.confidence_logits is not None
    if weights.total_variation or confident:
        apart = forced.distance()
        if weights.total_variation:
            distance = (share * apart).sum()
        if confident:
            assert forced.confidence_logits is not None
            aims = accepted(apart.detach())
            doubts = functional.binary_cross_entropy_with_logits(forced.confidence_logits, aims, reduction="none")
            doubt = (share * doubts).sum()
    total = (
        weights.cross_entropy * entropy
        + weights.total_variation * distance
        + weights.confidence * doubt
        + weights.distillation * distillation
    )
    return Losses(total, entropy, distance, doubt, distillation)
