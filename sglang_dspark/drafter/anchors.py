"""Where blocks begin in training."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_anchors(answer: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random places of answers at which a block may begin: a token of the answer that another one follows.

    Args:
        answer: [B, S] bool.
        count: N, at most; every text that has fewer such places gives all of them.
        generator: of the draws, on the CPU, so that they are the same wherever the training runs.

    Returns:
        Anchors [B, N'], in their order, N' the most that a text has of N; and [B, N'] which of them are real.
    """
    able = answer[:, :-1] & answer[:, 1:]
    # Features of the token before the anchor are needed.
    able[:, 0] = False
    draws = torch.rand(able.shape, generator=generator).to(able.device)
    order = draws.masked_fill(~able, 2.0).argsort(dim=1)[:, :count]
    many = able.sum(1).clamp(max=count)
    width = max(1, int(many.max()))
    order = order[:, :width]
    kept = torch.arange(width, device=able.device) < many.unsqueeze(-1)
    # Those that are not real go to the end, where they stay in bounds.
    anchors = order.masked_fill(~kept, able.shape[1]).sort(dim=1).values
    return anchors.clamp(max=able.shape[1] - 1).clamp(min=1), kept
