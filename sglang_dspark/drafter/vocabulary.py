"""A weighted sample of the vocabulary that replaces the whole of it in a training pass.

With a large vocabulary and a small drafter, most of a step computes logits of unlikely tokens. Sampling those tokens
and weighting each by the number it represents leaves the sums of softmax and total variation unbiased.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """The tokens whose logits are computed."""

    tokens: Tensor
    """[C], ascending."""

    weight: Tensor
    """[C] float32 to add to logits: the logarithm of the number of tokens that each represents."""


def draw(named: Tensor, vocabulary: int, others: int, generator: torch.Generator) -> Columns:
    """Select the distinct tokens of ``named`` and a random sample of the others.

    Args:
        named: [n] tokens on the CPU; repetitions are ignored.
        vocabulary: V.
        others: Size of the sample of tokens that are not named.
        generator: Of the sample.
    """
    taken = torch.zeros(vocabulary, dtype=torch.bool)
    taken[named] = True
    rest = (~taken).nonzero().squeeze(-1)
    chosen = rest[torch.randperm(len(rest), generator=generator)[:others]]
    taken[chosen] = True
    weight = torch.zeros(vocabulary)
    if len(chosen):
        weight[chosen] = math.log(len(rest) / len(chosen))
    tokens = taken.nonzero().squeeze(-1)
    return Columns(tokens, weight[tokens])


def rows(table: Tensor, tokens: Tensor | None) -> Tensor:
    """Return rows [C, ...] of a table [V, ...], or the table where ``tokens`` is None."""
    return table if tokens is None else table[tokens]
