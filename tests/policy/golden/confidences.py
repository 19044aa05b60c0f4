"""Shapes of a step's confidences: what a draft's head may give, and what makes ranks tie or fall below the floor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.policy.golden.draws import Draws

Confidence = NDArray[np.float32]

SURVIVAL_EPS = np.float32(1e-6)
"""``DSparkScheduleConfig.survival_eps``, as a float32 survival is compared with it."""

EQUAL_SURVIVAL = np.float32(0.7)


def _uniform(draws: Draws, requests: int, gamma: int) -> Confidence:
    return (1.0 - draws.unit(requests, gamma)).astype(np.float32)


def _high(draws: Draws, requests: int, gamma: int) -> Confidence:
    u = draws.unit(requests, gamma)
    return (1.0 - 0.3 * u * u).astype(np.float32)


def _low(draws: Draws, requests: int, gamma: int) -> Confidence:
    """Most survivals fall below the floor within a few positions, some to float32 zero."""
    u = 1.0 - draws.unit(requests, gamma)
    return (u * u * u * u).astype(np.float32)


def _by_request(draws: Draws, requests: int, gamma: int) -> Confidence:
    """Every request has its own level, as with prompts of different domains."""
    level = 0.3 + 0.7 * draws.unit(requests, 1)
    return (level * (1.0 - 0.2 * draws.unit(requests, gamma))).astype(np.float32)


def _eighths(draws: Draws, requests: int, gamma: int) -> Confidence:
    """Products are exact, so ties between different paths are exact too."""
    return (draws.integers(1, 8, requests, gamma) / 8).astype(np.float32)


def _copies(draws: Draws, requests: int, gamma: int) -> Confidence:
    """A few different rows, each held by many requests."""
    rows = _by_request(draws, 3, gamma)
    return rows[draws.integers(0, 2, requests)]


def _plateaus(draws: Draws, requests: int, gamma: int) -> Confidence:
    """Confidences of exactly 1 among others: ties along a block."""
    return np.where(draws.unit(requests, gamma) < 0.6, np.float32(1), _eighths(draws, requests, gamma))


def _equal(draws: Draws, requests: int, gamma: int) -> Confidence:
    """All survivals are EQUAL_SURVIVAL: under a table in proportion to it, rounding alone decides the best budget."""
    confidence = np.ones((requests, gamma), np.float32)
    confidence[:, 0] = EQUAL_SURVIVAL
    return confidence


def _ones(draws: Draws, requests: int, gamma: int) -> Confidence:
    return np.ones((requests, gamma), np.float32)


def _some_zero(draws: Draws, requests: int, gamma: int) -> Confidence:
    return np.where(draws.unit(requests, gamma) < 0.15, np.float32(0), _uniform(draws, requests, gamma))


def _zeros(draws: Draws, requests: int, gamma: int) -> Confidence:
    return np.zeros((requests, gamma), np.float32)


def _at_floor(draws: Draws, requests: int, gamma: int) -> Confidence:
    """Survivals one float32 below, at and above the floor."""
    confidence = _plateaus(draws, requests, gamma)
    below, above = np.nextafter(SURVIVAL_EPS, np.float32(0)), np.nextafter(SURVIVAL_EPS, np.float32(1))
    confidence[:, 0] = np.array([below, SURVIVAL_EPS, above, 1], np.float32)[draws.integers(0, 3, requests)]
    return confidence


Shape = Callable[[Draws, int, int], Confidence]
SHAPES: tuple[Shape, ...] = (
    *(_uniform, _uniform, _high, _high, _low, _by_request, _by_request, _by_request),
    *(_eighths, _copies, _plateaus, _ones, _equal, _some_zero, _zeros, _at_floor),
)
