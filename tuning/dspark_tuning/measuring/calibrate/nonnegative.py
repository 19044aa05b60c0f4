"""Robust non-negative least squares, and monotone piecewise linear curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]


def robust(
    design: Floats, target: Floats, weight: Floats, penalty: Floats | None = None, width: float = 0.1, rounds: int = 12
) -> Floats:
    """Non-negative least squares of relative errors with a pseudo-Huber loss, by iterative reweighting.

    Args:
        design: float64 [rows, columns].
        target: float64 [rows], above 0.
        weight: float64 [rows].
        penalty: float64 [rules, columns], linear combinations of coefficients that are drawn towards 0.
        width: Relative error beyond which the loss is linear.

    Returns:
        float64 [columns].
    """
    rules = np.empty((0, design.shape[1])) if penalty is None else penalty * np.sqrt(weight.sum())
    relative = np.sqrt(weight) / target
    scale = np.ones(len(target))
    x = np.zeros(design.shape[1])
    for _ in range(rounds):
        by = relative * scale
        x, _ = nnls(np.concatenate([design * by[:, None], rules]), np.concatenate([target * by, np.zeros(len(rules))]))
        error = design @ x / target - 1
        scale = 1 / np.sqrt(np.sqrt(1 + (error / width) ** 2))
    return x


def ramps(at: Floats, knots: Sequence[float]) -> Floats:
    """Basis of monotone curves, float64 [rows, knots - 1]: each column rises from 0 to 1 between two knots."""
    if len(knots) < 2:
        return np.empty((len(at), 0))
    return np.stack([np.clip((at - low) / (high - low), 0.0, 1.0) for low, high in pairwise(knots)], 1)


def bends(knots: Sequence[float]) -> Floats:
    """Changes of slope of a sum of ``ramps`` at inner knots over its mean slope, float64 [knots - 2, knots - 1]."""
    at = np.asarray(knots)
    if len(at) < 3:
        return np.empty((0, max(len(at) - 1, 0)))
    slopes = np.diag((at[-1] - at[0]) / np.diff(at))
    return np.asarray(slopes[:-1] - slopes[1:], np.float64)


def knots(values: Floats, most: int) -> list[float]:
    """At most ``most`` knots among ``values``: both ends, and quantiles of the distinct values between."""
    at = np.unique(values)
    if len(at) > most:
        at = np.unique(np.quantile(at, np.linspace(0, 1, most), method="nearest"))
    return [float(place) for place in at]
