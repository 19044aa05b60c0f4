"""The demo's target by itself: what transformers makes of the same checkpoint."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_dspark.demo import TARGET

ROUNDING: Final = torch.finfo(torch.bfloat16).eps


@cache
def model(dtype: torch.dtype = torch.float32) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(TARGET, dtype=dtype)
    return loaded.eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TARGET)


@torch.no_grad()
def next_logits(ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """float32 [V], after ``ids``."""
    logits: torch.Tensor = model(dtype)(torch.tensor([ids])).logits[0, -1].float()
    return logits


def margin(ids: list[int]) -> float:
    """How far the best next token is ahead of the second, in logits."""
    best, second = (float(logit) for logit in next_logits(ids).topk(2).values)
    return best - second


def tie(ids: list[int], one: int, other: int) -> tuple[float, float]:
    """Whether bfloat16 can tell two next tokens apart.

    Returns:
        By how much their logits differ in float32, and by how much bfloat16 moves them: its rounding of a logit, or
        what computing the whole target in it changes, whichever is more, for each of the two.
    """
    pair = torch.tensor([one, other])
    exact, rounded = next_logits(ids)[pair], next_logits(ids, torch.bfloat16)[pair]
    moved = torch.maximum((rounded - exact).abs(), ROUNDING * exact.abs())
    return float((exact[0] - exact[1]).abs()), float(moved.sum())
