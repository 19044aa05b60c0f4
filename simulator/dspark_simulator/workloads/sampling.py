"""Random numbers of requests, each a pure function of (seed, request id, purpose).

The compiled loops compute one number at a time: vectorised logarithms may round differently by position in an array,
and a request must not depend on the chunk that it is drawn in.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.draws import draw, stream, uniform
from sglang_dspark.jit import njit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SMALLEST = 2.0**-54


@njit(cache=True)
def uniforms(seed: int, first: int, count: int, purpose: int) -> FloatArray:
    """float64 [count] in [0, 1): one number for each of the requests ``first .. first + count - 1``."""
    out = np.empty(count)
    for i in range(count):
        out[i] = uniform(draw(stream(seed, first + i), 0, purpose))
    return out


@njit(cache=True)
def normal_quantile(p: float) -> float:
    """The standard normal quantile at ``p`` in [0, 1), to about 1e-10; ``p`` = 0 counts as 2**-54.

    Starts from formula 26.2.23 of Abramowitz and Stegun (error below 4.5e-4) and takes one step of Halley's method.
    """
    tail = max(min(p, 1.0 - p), _SMALLEST)
    t = math.sqrt(-2.0 * math.log(tail))
    x = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    error = (0.5 * math.erfc(x / math.sqrt(2.0)) - tail) / density
    x += error / (1.0 - 0.5 * x * error)
    return -x if p < 0.5 else x


@njit(cache=True)
def lognormal_tokens(u: FloatArray, mean: float, sigma: float, low: int, high: int) -> IntArray:
    """int64 [n]: lognormal quantiles at ``u``, rounded and clamped to ``low .. high``; ``mean`` is before clamping."""
    out = np.empty(u.shape[0], np.int64)
    mu = math.log(mean) - 0.5 * sigma * sigma
    for i in range(u.shape[0]):
        # Clamped as a float: exp may exceed every integer.
        out[i] = int(min(max(math.exp(mu + sigma * normal_quantile(u[i])) + 0.5, float(low)), float(high)))
    return out
