"""One length for all requests."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dspark_simulator.workloads.lengths.base import LengthDistribution, scaled_tokens
from dspark_simulator.workloads.model import Tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class Fixed(LengthDistribution):
    """The same length for every request.

    Attributes:
        tokens: Length in tokens.
    """

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def quantiles(self, u: FloatArray) -> IntArray:
        return np.full(u.shape, self.tokens, np.int64)

    def scaled(self, factor: float) -> Fixed:
        return Fixed(tokens=scaled_tokens(self.tokens, factor))
