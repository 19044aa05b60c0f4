"""Bursty arrivals: gamma-distributed gaps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dspark_simulator.draws import ARRIVAL, draw, stream, uniform
from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.model import Positive
from dspark_simulator.workloads.sampling import FloatArray, normal_quantile
from sglang_dspark.jit import njit


class Gamma(ArrivalProcess):
    """Independent gamma-distributed gaps.

    Attributes:
        rate_per_s: Mean requests per second.
        burstiness: Coefficient of variation of the gaps: 1 is Poisson, less is more regular, more is burstier.
    """

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Positive
    burstiness: Annotated[float, Field(ge=0.01, le=100)]

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        shape = self.burstiness**-2
        last = 0.0
        for first in count(0, size):
            out = np.empty(size)
            last = _add_gammas(seed, first, last, shape, out)
            yield out / (shape * self.rate_per_s)

    @property
    def mean_rate_per_s(self) -> float:
        return self.rate_per_s

    def with_rate(self, rate_per_s: float) -> Gamma:
        return Gamma(rate_per_s=rate_per_s, burstiness=self.burstiness)


@njit(cache=True)
def _add_gammas(seed: int, first: int, total: float, shape: float, out: FloatArray) -> float:
    """Write the running sum, starting at ``total``, of the gamma gaps (scale 1) of the requests from ``first``."""
    for i in range(out.shape[0]):
        total += _gamma(stream(seed, first + i), shape)
        out[i] = total
    return total


@njit(cache=True)
def _gamma(key: np.uint64, shape: float) -> float:
    """A gamma variate of scale 1 by the rejection method of Marsaglia and Tsang (2000).

    For a shape below 1, the variate of the shape plus 1 is multiplied by a power of a uniform (section 6 of the paper).
    """
    boost = 1.0
    if shape < 1.0:
        boost = uniform(draw(key, 0, ARRIVAL)) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    index = 1
    while True:
        x = normal_quantile(uniform(draw(key, index, ARRIVAL)))
        u = 1.0 - uniform(draw(key, index + 1, ARRIVAL))
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(u) < 0.5 * x * x + d * (1.0 - v + math.log(v)):
            return boost * d * v
        index += 2
