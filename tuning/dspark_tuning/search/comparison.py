"""Paired comparison of arms on the same requests and truths."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.search.objectives import Objective, figures, floor, log_score

CONFIDENCE = 0.95
LEAST_REPLICATIONS = 6
# Metrics of every comparison, in addition to the objective.
COMPARED: tuple[Objective, ...] = ("throughput", "goodput")


class Ratio(NamedTuple):
    """Geometric mean ratio over paired replications with its 95 % interval."""

    ratio: float
    low: float
    high: float
    replications: int


class Difference(NamedTuple):
    """Mean difference over paired replications with its 95 % interval, in the unit of the objective."""

    difference: float
    low: float
    high: float
    replications: int


Gain = Ratio | Difference


def ratio(logs: NDArray[np.float64]) -> Ratio:
    """Geometric mean ratio with its t interval, from the logarithms of paired ratios, one per replication."""
    centre, margin = t_interval(logs)
    return Ratio(math.exp(centre), math.exp(centre - margin), math.exp(centre + margin), len(logs))


def gain(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Gain:
    """Gain of ``arm`` over ``base`` in an objective, over all loads and seeds of ``rows``.

    A ratio, or a difference where values at the floor make a ratio meaningless (:func:`at_floor`).
    """
    two = rows[rows["arm"].isin([arm, base])]
    if at_floor(two, metric):
        return gained_difference(two, arm, base, metric)
    return gained_ratio(two, arm, base, metric)


def gain_of(row: Mapping[Hashable, Any]) -> Gain:
    """The gain in a row that has the fields of both forms, where those of one form are NaN or None."""
    form: type[Gain] = Difference if pd.isna(row["ratio"]) else Ratio
    return form(*(row[field] for field in form._fields))


def compare(rows: pd.DataFrame, winner: str, objective: Objective) -> pd.DataFrame:
    """Gain of ``winner`` over every arm in throughput, goodput and the objective, by load and over all loads.

    Returns:
        Columns arm, load (NaN is over all loads), metric, mean (of the arm), ratio, difference, low, high,
        replications; of ratio and difference one is NaN.
    """
    gains = []
    for metric in dict.fromkeys((*COMPARED, objective)):
        for load in (*sorted(rows["load"].unique()), math.nan):
            part = rows if math.isnan(load) else rows[rows["load"] == load]
            means = figures(part, metric).groupby(part["arm"]).mean()
            for arm in rows["arm"].unique():
                over = {"ratio": math.nan, "difference": math.nan} | gain(part, winner, arm, metric)._asdict()
                gains.append({"arm": arm, "load": load, "metric": metric, "mean": means[arm], **over})
    return pd.DataFrame(gains)


def at_floor(rows: pd.DataFrame, metric: str) -> bool:
    """Whether any row is at or below the floor of the score, so that a ratio would be relative to that floor."""
    return bool((figures(rows, metric) <= floor(rows, metric)).any())


def gained_ratio(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Ratio:
    """Geometric mean of the ratio of ``arm`` to ``base`` over loads and seeds."""
    return ratio(paired(rows.assign(score=log_score(rows, metric)), arm, base))


def gained_difference(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Difference:
    """Mean difference of ``arm`` and ``base`` over loads and seeds."""
    differences = paired(rows.assign(score=figures(rows, metric)), arm, base)
    centre, margin = t_interval(differences)
    return Difference(centre, centre - margin, centre + margin, len(differences))


def paired(rows: pd.DataFrame, arm: str, base: str) -> NDArray[np.float64]:
    """``score`` of ``arm`` minus that of ``base``, averaged over loads: float64 [seeds]."""
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
