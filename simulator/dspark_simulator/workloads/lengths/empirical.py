"""Lengths drawn from a list."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from dspark_simulator.workloads.lengths.base import LengthDistribution, scaled_tokens
from dspark_simulator.workloads.model import Tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class Empirical(LengthDistribution):
    """Each of the listed lengths equally likely; a repeated one counts as often as it is listed.

    Attributes:
        values: Lengths in tokens.
    """

    kind: Literal["empirical"] = "empirical"
    values: tuple[Tokens, ...] = Field(min_length=1)

    def quantiles(self, u: FloatArray) -> IntArray:
        return np.array(self.values, np.int64)[(u * len(self.values)).astype(np.int64)]

    def scaled(self, factor: float) -> Empirical:
        return Empirical(values=tuple(scaled_tokens(tokens, factor) for tokens in self.values))
