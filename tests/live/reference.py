"""The target by itself: what transformers makes of the same checkpoint."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_dspark.demo import TARGET


@cache
def model(dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(TARGET, dtype=dtype).eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TARGET)


@torch.no_grad()
def next_logits(ids: list[int]) -> torch.Tensor:
    """float32 [V], after ``ids``."""
    return model()(torch.tensor([ids])).logits[0, -1]


def margin(ids: list[int]) -> float:
    """How far the best next token is ahead of the second, in logits."""
    best, second = next_logits(ids).topk(2).values.tolist()
    return best - second
