"""Verify lengths on the device: the best drafts up to the cap by rank, in PyTorch, without a synchronisation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from sglang_dspark.policy import lengths, survival
from sglang_dspark.policy.record import SURVIVAL_FLOOR, Load, Rule
from sglang_dspark.policy.rule import limits
from sglang_dspark.serving import kernels


def verify_lengths(rule: Rule, confidence: torch.Tensor, load: Load, cap: int) -> torch.Tensor:
    """Verify lengths, anchors included as SGLang counts, of what ``sglang_dspark.policy.lengths`` admits.

    Args:
        confidence: float [R, gamma], of the step itself.
        cap: Drafts beyond the anchors that may be verified.

    Returns:
        int32 [R] on ``confidence``'s device, 1..gamma + 1.
    """
    if kernels.installed("lengths") is not None:
        return kernels.policy_lengths(rule, confidence, load, cap)
    if confidence.device.type == "cpu":
        current = survival(confidence.float().numpy())
        return torch.from_numpy(lengths(rule, current, load, cap)).to(torch.int32).add_(1)
    return on_device(rule, confidence, load, cap)


def on_device(rule: Rule, confidence: torch.Tensor, load: Load, cap: int) -> torch.Tensor:
    """:func:`verify_lengths` without the host: the confidences stay where they are.

    Where scores are survivals SGLang's scheduler has the same order and the same ties, in 3 launches instead of 15.
    """
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
    if factor is None and first == 0 and last > 0:
        return by_upstream(confidence, cap, last)
    return ranked(confidence, factor, cap, first, last).add_(1)


class _Limits(NamedTuple):
    """SGLang's ``DSparkScheduleConfig`` as its scheduler reads it, anchors included."""

    longest: int
    min_verify_len: int = 1
    survival_eps: float = float(SURVIVAL_FLOOR)

    def resolved_max_verify_len(self) -> int:
        return self.longest


def by_upstream(confidence: torch.Tensor, cap: int, last: int) -> torch.Tensor:
    """:func:`verify_lengths` by SGLang's own scheduler, whose scores are survivals.

    Args:
        last: Longest length.
    """
    from sglang.kernels.ops.speculative.dspark.dspark_schedule import ScheduleVerifyLensTopk

    # Not ``execute``, which our kernels may have taken over.
    schedule = ScheduleVerifyLensTopk.triton if confidence.is_cuda else ScheduleVerifyLensTopk.torch
    window = confidence if last == confidence.shape[1] else confidence[:, :last]
    lengths: torch.Tensor = schedule(confidence=window, budget=cap, cfg=_Limits(last + 1))
    return lengths


def ranked(confidence: torch.Tensor, factor: torch.Tensor | None, cap: int, first: int, last: int) -> torch.Tensor:
    """Drafts admitted of each request, 0..gamma, by a form of :func:`verify_lengths` that runs on any device.

    A stable sort of the position-major scores breaks ties by position and then by request; a request's scores never
    rise along the block, so its admitted drafts are a prefix, and its length is how many of them are among the best.

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
