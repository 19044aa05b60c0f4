"""Batches of texts with what the target makes of them, looked at anew or read from a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sglang_dspark.drafter.base import Batch
from sglang_dspark.drafter.data.cache import Cache
from sglang_dspark.drafter.data.passages import Passage
from sglang_dspark.drafter.target import Target


class Texts(Protocol):
    """Numbered texts."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The texts of these numbers, padded on the right."""

    def tokens(self) -> Tensor:
        """[n] those of all texts, on the CPU."""


class Looked:
    """Texts that the target passes over whenever they are asked for."""

    def __init__(self, passages: Sequence[Passage], target: Target, layers: Sequence[int]) -> None:
        self.passages = passages
        self.target = target
        self.layers = layers

    def __len__(self) -> int:
        return len(self.passages)

    def batch(self, numbers: Sequence[int]) -> Batch:
        device = self.target.device
        tokens = _pad([torch.from_numpy(self.passages[n].tokens) for n in numbers]).to(device)
        answer = _pad([torch.from_numpy(self.passages[n].answer) for n in numbers]).to(device)
        seen = self.target.look(tokens, self.layers)
        return Batch(tokens, answer, seen.features, seen.last)

    def tokens(self) -> Tensor:
        return torch.cat([torch.from_numpy(passage.tokens) for passage in self.passages])


class Cached:
    """Texts of a cache."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache = cache
        self.device = device

    def __len__(self) -> int:
        return len(self.cache)

    def batch(self, numbers: Sequence[int]) -> Batch:
        texts = [self.cache.text(n) for n in numbers]
        tokens, answer, features, last = (
            _pad([text[name] for text in texts]).to(self.device) for name in ("tokens", "answer", "features", "last")
        )
        return Batch(tokens, answer, features.float(), last.float())

    def tokens(self) -> Tensor:
        return self.cache.tokens()


def order(count: int, step: int, batch: int, seed: int) -> list[int]:
    """Numbers of the texts of a step: every text once an epoch, each epoch in an order of its own.

    A function of its arguments alone, so that a run which goes on needs to remember nothing.
    """
    numbers: list[int] = []
    place = step * batch
    while len(numbers) < batch:
        epoch, start = divmod(place, count)
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        numbers += shuffled[start : start + batch - len(numbers)].tolist()
        place = step * batch + len(numbers)
    return numbers


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True)
