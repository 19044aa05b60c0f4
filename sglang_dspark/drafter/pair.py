"""A target and a drafter that was trained for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from sglang_dspark.drafter import checkpoint
from sglang_dspark.drafter.base import Drafter
from sglang_dspark.drafter.target import Target, check_tokenizer, load_tokenizer
from sglang_dspark.errors import InputError


class Pair(NamedTuple):
    """A target, a drafter that was trained for it, and their tokenizer."""

    target: Target
    drafter: Drafter[Any]
    tokenizer: Any


def load(target_name: str, draft: Path, device: str) -> Pair:
    """Load a pair, in float32 on the CPU and in bfloat16 elsewhere.

    Raises:
        InputError: Target or drafter cannot be loaded, or the drafter was trained for another target.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    drafter = checkpoint.load(draft, dtype)
    target = Target.load(target_name, dtype, device)
    tokenizer = load_tokenizer(target_name)
    check(drafter, target, tokenizer, str(draft))
    if drafter.shared_absent:
        drafter.adopt(target.embedding.to(dtype).cpu(), target.head.to(dtype).cpu())
    return Pair(target, drafter.to(torch.device(device)).eval(), tokenizer)


def check(drafter: Drafter[Any], target: Target, tokenizer: Any, source: str) -> None:
    """Raise InputError unless the drafter was trained for the target and its tokenizer."""
    config = drafter.config
    remedy = "give the target that the draft was trained for"
    if config.num_target_layers != len(target.layers):
        raise InputError(
            f"{source}: num_target_layers: {config.num_target_layers} is not {len(target.layers)}, the target's;"
            f" {remedy}"
        )
    shape = (config.vocab_size, config.hidden_size)
    if shape != tuple(target.embedding.shape):
        raise InputError(
            f"{source}: vocab_size, hidden_size: {list(shape)} are not {list(target.embedding.shape)}, the target's;"
            f" {remedy}"
        )
    check_tokenizer(len(tokenizer), config.vocab_size, source)
    if not drafter.shared_absent:
        embedding = target.embedding.detach().to("cpu", torch.bfloat16)
        if not torch.equal(drafter.embed_tokens.weight.detach().to("cpu", torch.bfloat16), embedding):
            raise InputError(f"{source}: embed_tokens differs from the target's embedding; {remedy}")
