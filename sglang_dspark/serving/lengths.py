"""The device's part of a step: the cap's best drafts by rank, in PyTorch, without a synchronisation."""

from __future__ import annotations

import numpy as np
import torch

from sglang_dspark.policy import lengths, survival
from sglang_dspark.policy.record import SURVIVAL_FLOOR, Load, Rule
from sglang_dspark.policy.rule import limits
from sglang_dspark.serving import kernels


def verify_lengths(rule: Rule, confidence: torch.Tensor, load: Load, cap: int) -> torch.Tensor:
    """Drafts admitted of each request, as ``sglang_dspark.policy.lengths`` admits them.

    Args:
        confidence: float [R, gamma], of the step itself.
        cap: Drafts beyond the anchors that may be verified.

    Returns:
        int32 [R] on ``confidence``'s device, 0..gamma.
    """
    if kernels.installed("lengths") is not None:
        return kernels.policy_lengths(rule, confidence, load, cap)
    if confidence.device.type == "cpu":
        current = survival(confidence.float().numpy())
        return torch.from_numpy(lengths(rule, current, load, cap)).to(torch.int32)
    return on_device(rule, confidence, load, cap)


def on_device(rule: Rule, confidence: torch.Tensor, load: Load, cap: int) -> torch.Tensor:
    """:func:`verify_lengths` without the host: the confidences stay where they are."""
    record = rule[0]
    factor = None
    if record["price_per_token"] or not (record["weight"] == 1.0).all():
        # The same float32 factor that ``policy.record.request_factor`` forms.
        price = 1.0 + float(record["price_per_token"]) * load.context
        factor = torch.from_numpy((record["weight"][load.slo_class] / price).astype(np.float32))
        if confidence.is_cuda:
            factor = factor.pin_memory()
        factor = factor.to(confidence.device, non_blocking=True)
    least, last = limits(rule, len(load.context))
    first = least if len(load.context) * least <= cap else 0
    return ranked(confidence, factor, cap, first, last)


def ranked(confidence: torch.Tensor, factor: torch.Tensor | None, cap: int, first: int, last: int) -> torch.Tensor:
    """The form of :func:`verify_lengths` that runs on any device.

    A stable sort of the position-major scores breaks ties by position and then by request; a request's scores never
    rise along the block, so what it gets is a prefix, and its length is how many of its drafts are among the best.

    Args:
        confidence: float [R, gamma].
        factor: float32 [R] that multiplies the scores of each request; None for ones.
        first, last: Shortest and longest length.
    """
    requests = confidence.shape[0]
    current = torch.cumprod(confidence.float(), dim=1)[:, first:last]
    score = current if factor is None else factor[:, None] * current
    keys = torch.where(current >= float(SURVIVAL_FLOOR), score, -1.0).t().reshape(-1)
    left = min(max(cap - requests * first, 0), keys.numel())
    best, place = torch.sort(keys, descending=True, stable=True)
    admitted = (best[:left] >= 0).to(torch.int32)
    drafts = torch.full((requests,), first, dtype=torch.int32, device=confidence.device)
    return drafts.scatter_add_(0, place[:left] % requests, admitted)
