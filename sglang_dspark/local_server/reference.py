"""The demo's target in transformers, as the reference for a server's tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_dspark.demo import TARGET

ROUNDING: Final = torch.finfo(torch.bfloat16).eps


@cache
def model(dtype: torch.dtype = torch.float32) -> Any:
    """Load the target."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(TARGET, dtype=dtype)
    return loaded.eval()


@cache
def tokenizer() -> Any:
    """Load the target's tokenizer."""
    return AutoTokenizer.from_pretrained(TARGET)


@torch.no_grad()
def next_logits(ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Compute the logits after ``ids``, float32 [V]."""
    logits: torch.Tensor = model(dtype)(torch.tensor([ids])).logits[0, -1].float()
    return logits


def margin(ids: list[int]) -> float:
    """Compute the difference between the two highest logits after ``ids``."""
    best, second = (float(logit) for logit in next_logits(ids).topk(2).values)
    return best - second


def tie(ids: list[int], one: int, other: int) -> tuple[float, float]:
    """Compare the logit difference of two next tokens with the error of bfloat16.

    Returns:
        The difference of their logits in float32, and the sum of their errors in bfloat16: for each token the larger
        of the rounding of its logit and the change from computing the whole target in bfloat16.
    """
    pair = torch.tensor([one, other])
    exact, rounded = next_logits(ids)[pair], next_logits(ids, torch.bfloat16)[pair]
    moved = torch.maximum((rounded - exact).abs(), ROUNDING * exact.abs())
    return float((exact[0] - exact[1]).abs()), float(moved.sum())
