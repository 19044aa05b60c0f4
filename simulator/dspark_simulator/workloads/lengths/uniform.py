"""Uniformly distributed lengths."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dspark_simulator.workloads.lengths.base import Bounded, scaled_tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class Uniform(Bounded):
    """Every length from ``min`` to ``max``, both included, equally likely."""

    kind: Literal["uniform"] = "uniform"

    def quantiles(self, u: FloatArray) -> IntArray:
        return self.min + (u * (self.max - self.min + 1)).astype(np.int64)

    def scaled(self, factor: float) -> Uniform:
        return Uniform(min=scaled_tokens(self.min, factor), max=scaled_tokens(self.max, factor))
