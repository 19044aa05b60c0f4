"""Part of a vocabulary that stands for all of it in a pass of training.

Where the vocabulary is large and the drafter small, most of a step is logits of tokens that hardly any place could have
next. A sample of those, each weighing as many as it stands for, keeps the sums of softmax and total variation right on
average.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """Tokens whose logits are made."""

    tokens: Tensor
    """[C], rising."""

    weight: Tensor
    """[C] float32, to be added to logits: the logarithm of how many tokens each stands for."""


def draw(named: Tensor, vocabulary: int, others: int, generator: torch.Generator) -> Columns:
    """All tokens of ``named`` [n], on the CPU, once each, and ``others`` of the vocabulary's other ones."""
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
    """Rows [C, ...] of a table [V, ...]; all of them where no tokens are named."""
    return table if tokens is None else table[tokens]
