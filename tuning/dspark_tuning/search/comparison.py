"""Paired comparison of arms on the same requests and truths."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.search.objectives import figures, floor, log_score

CONFIDENCE = 0.95
LEAST_REPLICATIONS = 6


class Ratio(NamedTuple):
    """A geometric mean ratio over paired replications and its 95 % interval."""

    ratio: float
    low: float
    high: float
    replications: int


class Difference(NamedTuple):
    """A mean difference over paired replications, in the objective's unit, and its 95 % interval."""

    difference: float
    low: float
    high: float
    replications: int


Gain = Ratio | Difference


def ratio(logs: NDArray[np.float64]) -> Ratio:
    """Of the logarithms of paired ratios, one a replication: their t interval, back on the scale of ratios."""
    centre, margin = t_interval(logs)
    return Ratio(math.exp(centre), math.exp(centre - margin), math.exp(centre + margin), len(logs))


def gain(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Gain:
    """``arm`` over ``base`` in an objective, over all loads and seeds of ``rows``.

    A ratio, or the difference where a figure at the floor would be a factor of it (:func:`at_floor`).
    """
    two = rows[rows["arm"].isin([arm, base])]
    if at_floor(two, metric):
        return gained_difference(two, arm, base, metric)
    return gained_ratio(two, arm, base, metric)


def told_gain(row: Mapping[Hashable, Any]) -> Gain:
    """The gain of a row with the fields of both of its forms, those of one of them NaN or None."""
    form: type[Gain] = Difference if pd.isna(row["ratio"]) else Ratio
    return form(*(row[field] for field in form._fields))


def at_floor(rows: pd.DataFrame, metric: str) -> bool:
    """Whether some row is at the floor of the score or below it: a ratio would be one to that floor."""
    return bool((figures(rows, metric) <= floor(rows, metric)).any())


def gained_ratio(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Ratio:
    """Geometric mean over loads and seeds of the ratio of ``arm`` to ``base``."""
    return ratio(paired(rows.assign(score=log_score(rows, metric)), arm, base))


def gained_difference(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Difference:
    """Mean over loads and seeds of the difference of ``arm`` and ``base``."""
    differences = paired(rows.assign(score=figures(rows, metric)), arm, base)
    centre, margin = t_interval(differences)
    return Difference(centre, centre - margin, centre + margin, len(differences))


def paired(rows: pd.DataFrame, arm: str, base: str) -> NDArray[np.float64]:
    """``score`` of ``arm`` less that of ``base`` by seed, averaged over loads: one number a replication."""
    table = rows.groupby(["arm", "seed"])["score"].mean()
    differences: NDArray[np.float64] = (table[arm] - table[base]).to_numpy()
    return differences


def t_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and half width of its 95 % t interval, NaN for fewer than six values."""
    return float(values.mean()), t_margin(values, 0.5 + CONFIDENCE / 2)


def t_margin(values: NDArray[np.float64], p: float) -> float:
    """Distance from the mean of ``values`` to its one-sided bound at confidence ``p``, by Student's t.

    NaN for fewer than six values: an interval from so few replications is not informative.
    """
    from scipy.special import stdtrit  # Takes a quarter of a second, which `dspark simulate` does not need.

    n = len(values)
    if n < LEAST_REPLICATIONS:
        return math.nan
    return float(stdtrit(n - 1, p)) * float(values.std(ddof=1)) / math.sqrt(n)
