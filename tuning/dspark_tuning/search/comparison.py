"""Paired comparison of arms on the same requests and truths."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.search.objectives import figures, floor, log_score

CONFIDENCE = 0.95


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
    """Mean and the half width of its 95 % t interval, NaN for a single value."""
    n = len(values)
    margin = math.nan if n < 2 else t_quantile(0.5 + CONFIDENCE / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()), margin


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5).

    Within 1e-3 from 5 degrees of freedom on; NaN for fewer, since an interval from so few replications says nothing.
    """
    if freedom < 5:
        return math.nan
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4
