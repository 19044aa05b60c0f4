"""The losses of DSpark's drafter (arXiv 2607.05147, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CROSS_ENTROPY = 0.1
TOTAL_VARIATION = 0.9
CONFIDENCE = 1.0


class Losses(NamedTuple):
    """Scalars: the weighted sum to minimise, then its terms unweighted."""

    total: Tensor
    cross_entropy: Tensor
    total_variation: Tensor
    confidence: Tensor


def block_losses(
    draft_logits: Tensor, target_logits: Tensor, confidence_logits: Tensor, labels: Tensor, known: Tensor
) -> Losses:
    """Losses of N blocks, averaged over their places with weights exp(-(k - 1) / gamma).

    The total variation term is the whole L1 distance, twice the rejection probability. The confidence head learns the
    acceptance probability under rejection sampling at temperature 1, which trains nothing but its own logits.

    Args:
        draft_logits: [N, gamma, V], of the drafter, given the labels before.
        target_logits: [N, gamma, V], of the target at the same places.
        confidence_logits: [N, gamma].
        labels: [N, gamma] tokens of the text.
        known: [N, gamma] whether the text holds that place; others weigh nothing.
    """
    gamma = labels.shape[1]
    weights = known * torch.exp(-torch.arange(gamma) / gamma)
    weights = weights / weights.sum()
    entropy = functional.cross_entropy(draft_logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(weights)
    distance = (draft_logits.softmax(-1) - target_logits.softmax(-1)).abs().sum(-1)
    accepted = (1.0 - 0.5 * distance.detach()).clamp(0.0, 1.0)
    doubt = functional.binary_cross_entropy_with_logits(confidence_logits, accepted, reduction="none")
    terms = [(weights * term).sum() for term in (entropy, distance, doubt)]
    total = CROSS_ENTROPY * terms[0] + TOTAL_VARIATION * terms[1] + CONFIDENCE * terms[2]
    return Losses(total, *terms)
