"""Counter-based random draws: a draw is a pure function of (seed, request, output index, purpose).

Draws keep no state, so every policy, worker count and order of evaluation sees the same requests and the same
acceptances (common random numbers). The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import numpy as np

from sglang_dspark.jit import njit

# One number per purpose; changing one changes every published result. 9 is spent: a new purpose takes a new number.
ARRIVAL = 1
SLO_CLASS = 2
PROMPT = 3
OUTPUT = 4
PREFIX = 5
ABILITY = 6
PERSISTENCE = 7
VARIATION = 8
ACCEPT = 10
ROUTE = 11
TRUTH = 12
SHARED = 13

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xD1B54A32D192ED03)
_A = np.uint64(0xBF58476D1CE4E5B9)
_B = np.uint64(0x94D049BB133111EB)


@njit(cache=True, inline="always")
def mix(z: np.uint64) -> np.uint64:
    """Bijection of 64-bit integers in which every output bit depends on every input bit."""
    z = (z ^ (z >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


@njit(cache=True, inline="always")
def stream(seed: int, request: int) -> np.uint64:
    """Key of a request's draws under a seed."""
    return mix(mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(request) * _ODD))


@njit(cache=True, inline="always")
def draw(key: np.uint64, index: int, purpose: int) -> np.uint64:
    """64 random bits for ``index`` (an output index, or 0) and ``purpose`` of the stream ``key``."""
    return mix(key + np.uint64(index) * _GOLDEN + np.uint64(purpose) * _ODD)


@njit(cache=True, inline="always")
def uniform(bits: np.uint64) -> float:
    """A uniform number in [0, 1) with 53 random bits."""
    return float(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, inline="always")
def normal(bits: np.uint64) -> float:
    """An approximately normal number (mean 0, variance 1): the scaled sum of four 16-bit uniforms, bounded by 3.46.

    Sufficient for latent quality, whose tails beyond 3.4 sigma saturate the sigmoid, and far cheaper than a logarithm
    and a cosine.
    """
    low = np.uint64(0xFFFF)
    total = (
        float(bits & low)
        + float((bits >> np.uint64(16)) & low)
        + float((bits >> np.uint64(32)) & low)
        + float(bits >> np.uint64(48))
    )
    return (total - 131070.0) * (1.7320508075688772 / 65536.0)


@njit(cache=True)
def uniform_of(seed: int, request: int, index: int, purpose: int) -> float:
    """Uniform number of (seed, request, index, purpose), for callers outside compiled code."""
    return uniform(draw(stream(seed, request), index, purpose))
