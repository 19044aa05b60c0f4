"""Base classes of the length distributions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from pydantic import model_validator

from dspark_simulator.workloads.model import Described, Tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class LengthDistribution(Described):
    """A distribution of lengths of at least one token, given by its inverse.

    Members add ``kind: Literal[...]``, the key by which scenarios choose them.
    """

    @abstractmethod
    def quantiles(self, u: FloatArray) -> IntArray:
        """int64 [n] lengths in tokens at the probabilities ``u``, float64 [n] in [0, 1)."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """The same distribution with all lengths ``factor`` times as long, rounded to at least one token."""

    def unlikely(self) -> list[tuple[str, str]]:
        """Fields with values that are valid and cannot be meant, each with why and a remedy."""
        return []


class Bounded(LengthDistribution):
    """A distribution of lengths from ``min`` to ``max`` tokens, both included.

    Attributes:
        min: Shortest length in tokens.
        max: Longest length in tokens.
    """

    min: Tokens = 1
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; exchange them")
        return self


def scaled_tokens(tokens: int, factor: float) -> int:
    """A length times ``factor``, rounded to at least one token."""
    return max(1, round(tokens * factor))
