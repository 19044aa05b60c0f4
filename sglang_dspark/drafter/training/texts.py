"""Training texts with the target's hidden states, computed on the fly or read from a cache."""

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
    """A numbered collection of training texts."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return the texts of these numbers, padded on the right."""

    def tokens(self) -> Tensor:
        """Return the tokens of all texts on the CPU, [n]."""


class OnTheFlyTexts:
    """Texts whose hidden states the target computes for every batch."""

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
        states = self.target.hidden_states(tokens, self.layers)
        return Batch(tokens, answer, states.features, states.last)

    def tokens(self) -> Tensor:
        return torch.cat([torch.from_numpy(passage.tokens) for passage in self.passages])


class CachedTexts:
    """Texts whose hidden states come from a cache."""

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
    """Return the numbers of a step's texts: every text once per epoch, shuffled anew in each epoch.

    The result depends on the arguments alone, so that a resumed run needs no other state.
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
