"""Poisson arrivals at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar, Literal

import numpy as np

from dspark_simulator.draws import ARRIVAL, draw, stream, uniform
from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.model import Positive
from dspark_simulator.workloads.sampling import FloatArray
from sglang_dspark.jit import njit


class Poisson(ArrivalProcess):
    """Exponential gaps at a constant rate.

    Attributes:
        rate_per_s: Mean requests per second.
    """

    splits_at_random: ClassVar[bool] = True
    kind: Literal["poisson"] = "poisson"
    rate_per_s: Positive

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        for units in unit_arrivals(seed, size):
            yield units / self.rate_per_s

    @property
    def mean_rate_per_s(self) -> float:
        return self.rate_per_s

    def with_rate(self, rate_per_s: float) -> Poisson:
        return Poisson(rate_per_s=rate_per_s)


def unit_arrivals(seed: int, size: int) -> Iterator[FloatArray]:
    """Chunks, float64 [size], of the arrival times of a Poisson process of rate 1."""
    last = 0.0
    for first in count(0, size):
        out = np.empty(size)
        last = _add_exponentials(seed, first, last, out)
        yield out


@njit(cache=True)
def _add_exponentials(seed: int, first: int, total: float, out: FloatArray) -> float:
    """Write the running sum, starting at ``total``, of the unit exponential gaps of the requests from ``first``."""
    for i in range(out.shape[0]):
        total -= np.log1p(-uniform(draw(stream(seed, first + i), 0, ARRIVAL)))
        out[i] = total
    return total
