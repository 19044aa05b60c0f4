"""Least squares with coefficients that cannot be negative, and curves made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]


def robust(
    design: Floats, target: Floats, weight: Floats, wanted: Floats | None = None, width: float = 0.1, rounds: int = 12
) -> Floats:
    """The same on relative errors, of which those beyond ``width`` count by their size and no longer by its square.

    Args:
        target: float64 [rows], above 0.
        weight: float64 [rows], how much a row counts.
        wanted: float64 [rules, columns], sums of coefficients that should be 0 where the rows do not say otherwise.
    """
    rules = np.empty((0, design.shape[1])) if wanted is None else wanted * np.sqrt(weight.sum())
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
    """float64 [rows, knots - 1]: each column rises from 0 to 1 between two knots, so that a sum of them never falls."""
    if len(knots) < 2:
        return np.empty((len(at), 0))
    return np.stack([np.clip((at - low) / (high - low), 0.0, 1.0) for low, high in pairwise(knots)], 1)


def bends(knots: Sequence[float]) -> Floats:
    """float64 [knots - 2, knots - 1]: how much the slope of a sum of ``ramps`` changes at inner knots, over all."""
    at = np.asarray(knots)
    if len(at) < 3:
        return np.empty((0, max(len(at) - 1, 0)))
    slopes = np.diag((at[-1] - at[0]) / np.diff(at))
    return np.asarray(slopes[:-1] - slopes[1:], np.float64)


def knots(values: Floats, most: int) -> list[float]:
    """At most ``most`` places among ``values`` at which a curve may bend: the ends, and more where values are dense."""
    found = np.unique(values)
    if len(found) > most:
        found = np.unique(np.quantile(found, np.linspace(0, 1, most), method="nearest"))
    return [float(place) for place in found]
