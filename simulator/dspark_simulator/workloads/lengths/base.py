"""Prompt and output lengths in tokens. A new distribution is a class here and a member of ``Lengths``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from dspark_simulator.workloads.model import Described, Positive, Tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray, lognormal_tokens


class LengthDistribution(Described):
    """A distribution of lengths of at least one token, given by its inverse."""

    @abstractmethod
    def quantiles(self, u: FloatArray) -> IntArray:
        """int64 [n] lengths in tokens at the probabilities ``u``, float64 [n] in [0, 1)."""


class Fixed(LengthDistribution):
    """Always the same length."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def quantiles(self, u: FloatArray) -> IntArray:
        return np.full(u.shape, self.tokens, np.int64)


class _Bounded(LengthDistribution):
    min: Tokens = 1
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> _Bounded:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; exchange them")
        return self


class Uniform(_Bounded):
    """Every length from ``min`` to ``max``, both included, equally likely."""

    kind: Literal["uniform"] = "uniform"

    def quantiles(self, u: FloatArray) -> IntArray:
        return self.min + (u * (self.max - self.min + 1)).astype(np.int64)


class Lognormal(_Bounded):
    """Lognormal lengths, rounded and clamped to ``min .. max``.

    Attributes:
        mean: mean in tokens before clamping; a bound inside the bulk of the distribution moves it.
        sigma: standard deviation of the logarithm.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: Positive
    sigma: Annotated[float, Field(gt=0, le=10)]
    max: Tokens = 1 << 20

    def quantiles(self, u: FloatArray) -> IntArray:
        tokens: IntArray = lognormal_tokens(u, self.mean, self.sigma, self.min, self.max)
        return tokens


class Empirical(LengthDistribution):
    """Each of the listed lengths equally likely; repeat one to weigh it."""

    kind: Literal["empirical"] = "empirical"
    values: tuple[Tokens, ...] = Field(min_length=1)

    def quantiles(self, u: FloatArray) -> IntArray:
        return np.array(self.values, np.int64)[(u * len(self.values)).astype(np.int64)]


Lengths = Annotated[Fixed | Uniform | Lognormal | Empirical, Field(discriminator="kind")]
