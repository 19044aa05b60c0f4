"""Random anchors of training blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_anchors(answer: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample block anchors: answer tokens that are followed by another answer token.

    Args:
        answer: [B, S] bool, the answer's tokens.
        count: N, the most anchors of a text; a text with fewer candidates uses all of them.
        generator: On the CPU, so that the draws do not depend on the training device.

    Returns:
        Anchors [B, N'] in ascending order, where N' <= N is the largest number in a text, and a bool mask [B, N'] of
        the real ones; the others are padding.
    """
    candidates = answer[:, :-1] & answer[:, 1:]
    # The drafter reads the target's features of the token before the anchor.
    candidates[:, 0] = False
    draws = torch.rand(candidates.shape, generator=generator).to(candidates.device)
    order = draws.masked_fill(~candidates, 2.0).argsort(dim=1)[:, :count]
    counts = candidates.sum(1).clamp(max=count)
    width = max(1, int(counts.max()))
    order = order[:, :width]
    kept = torch.arange(width, device=candidates.device) < counts.unsqueeze(-1)
    # Padding sorts to the end and stays in bounds.
    anchors = order.masked_fill(~kept, candidates.shape[1]).sort(dim=1).values
    return anchors.clamp(max=candidates.shape[1] - 1).clamp(min=1), kept
