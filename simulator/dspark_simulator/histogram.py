"""Percentiles of a stream of durations in constant memory.

A histogram is an int64 array [BINS] of counts; histograms merge by addition. Bins are equally wide in the logarithm:
2,320 from 10 us to 100,000 s, each 0.9975 % of its lower edge wide, plus one for smaller and one for larger values.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit

LOW_S = 1e-5
HIGH_S = 1e5
BINS = 2322

_LOG_LOW = math.log(LOW_S)
_LOG_WIDTH = (math.log(HIGH_S) - _LOG_LOW) / (BINS - 2)
_PER_LOG = 1.0 / _LOG_WIDTH


def empty() -> NDArray[np.int64]:
    """A histogram without observations, int64 [BINS]."""
    return np.zeros(BINS, np.int64)


@njit(cache=True)
def observe(counts: NDArray[np.int64], value: float, weight: int) -> None:
    """Count ``value`` (seconds) ``weight`` times; NaN counts as the largest value."""
    if value < LOW_S:
        counts[0] += weight
    elif value < HIGH_S:
        counts[1 + int((math.log(value) - _LOG_LOW) * _PER_LOG)] += weight
    else:
        counts[BINS - 1] += weight


def quantile(counts: NDArray[np.int64], q: float) -> float:
    """The ``q`` quantile in seconds as ``numpy.quantile`` defines it, linear between the two nearest ranks.

    The two values are interpolated in the logarithm within their bins, so the result is within 1 % of the exact one,
    plus 10 us near values below 10 us, which read as 0. Values of 100,000 s or more read as 100,000 s.

    Args:
        counts: int64 [BINS].
        q: 0 to 1.

    Returns:
        Seconds; NaN for an empty histogram.
    """
    until = np.cumsum(counts)
    total = int(until[-1])
    if total == 0:
        return math.nan
    rank = q * (total - 1)
    below = math.floor(rank)
    low = _ranked(counts, until, below)
    return low + (rank - below) * (_ranked(counts, until, math.ceil(rank)) - low)


def _ranked(counts: NDArray[np.int64], until: NDArray[np.int64], rank: int) -> float:
    """Value of the observation at ``rank`` (from 0) in ascending order, assuming an even spread within its bin."""
    place = int(np.searchsorted(until, rank, side="right"))
    if place == 0:
        return 0.0
    if place == BINS - 1:
        return HIGH_S
    within = (rank - until[place - 1] + 0.5) / counts[place]
    return math.exp(_LOG_LOW + (place - 1 + within) * _LOG_WIDTH)
