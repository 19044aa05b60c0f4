"""Poisson arrivals with a rate that varies over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.arrivals.poisson import unit_arrivals
from dspark_simulator.workloads.sampling import FloatArray
from sglang_dspark.jit import njit

NonNegative = Annotated[float, Field(ge=0)]


class Varying(ArrivalProcess):
    """A Poisson process with a rate that is linear between points and repeats after the last one.

    Attributes:
        points: Pairs of a time in seconds and a rate in requests per second. Times start at 0 and
            increase; the last one is the period.
    """

    splits_at_random: ClassVar[bool] = True
    kind: Literal["varying"] = "varying"
    points: tuple[tuple[NonNegative, NonNegative], ...] = Field(min_length=2)

    @field_validator("points")
    @classmethod
    def _usable(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        times = [time_s for time_s, _ in points]
        if times[0] != 0:
            raise ValueError(f"the first time is {times[0]}; start at 0")
        for before, after in pairwise(times):
            if after <= before:
                raise ValueError(f"time {after} follows {before}; give increasing times")
        if not any(rate for _, rate in points):
            raise ValueError("every rate is 0; give a positive rate at one point or more")
        return points

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        time_s, rate = np.array(self.points).T.copy()
        expected = _expected(time_s, rate)
        last_s = 0.0
        for units in unit_arrivals(seed, size):
            last_s = _invert(units, time_s, rate, expected, last_s)
            yield units

    @property
    def mean_rate_per_s(self) -> float:
        time_s, rate = np.array(self.points).T
        return float(_expected(time_s, rate)[-1] / time_s[-1])

    def with_rate(self, rate_per_s: float) -> Varying:
        factor = rate_per_s / self.mean_rate_per_s
        return Varying(points=tuple((time_s, rate * factor) for time_s, rate in self.points))


def _expected(time_s: FloatArray, rate: FloatArray) -> FloatArray:
    """float64 [points]: expected requests from the start of a period to each point."""
    return np.concatenate(([0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(time_s))))


@njit(cache=True)
def _invert(units: FloatArray, time_s: FloatArray, rate: FloatArray, expected: FloatArray, last_s: float) -> float:
    """Replace unit-rate times by the times at which the integrated rate reaches them; returns the last one.

    ``last_s`` is the time before ``units[0]``: rounding must not let a request arrive before the previous one.
    """
    segments = time_s.shape[0] - 1
    for i in range(units.shape[0]):
        period = math.floor(units[i] / expected[segments])
        left = max(units[i] - period * expected[segments], 0.0)
        k = min(np.searchsorted(expected, left, side="right") - 1, segments - 1)
        left -= expected[k]
        length_s = time_s[k + 1] - time_s[k]
        slope = (rate[k + 1] - rate[k]) / length_s
        # Root of rate * x + slope / 2 * x**2 = left, in the form that is stable for a constant or falling rate.
        speed = rate[k] + math.sqrt(max(rate[k] * rate[k] + 2.0 * slope * left, 0.0))
        passed_s = min(2.0 * left / speed, length_s) if speed > 0.0 else 0.0
        last_s = max(period * time_s[segments] + time_s[k] + passed_s, last_s)
        units[i] = last_s
    return last_s
