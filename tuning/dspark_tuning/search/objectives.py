"""Objectives of the search and metrics of the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from dspark_simulator.scenario import Scenario

# A new objective is a name here and an entry of ``METRICS``.
Objective = Literal["throughput", "goodput", "tpot", "front"]

# A mean TPOT improves as requests wait longer, so an arm must meet the TTFT of this share of requests at every load.
REQUIRED_ATTAINMENT: Final = 0.95
# Below every score that step times can produce.
INFEASIBLE: Final = -20.0


class Metric(NamedTuple):
    """A metric of the comparison, or an objective of the search.

    Attributes:
        key: Name of the objective.
        title, unit: For display.
        value: Value of each row; higher is better, 0 is the minimum.
        floor: Lower bound of the value of each row in a score, so that rows without any value remain comparable.
        needs_ttft: Improves as requests wait longer, and therefore requires a TTFT attainment.
        parts: Objectives that the sampler maximises together; itself if empty.
    """

    key: Objective
    title: str
    unit: str
    value: Callable[[pd.DataFrame], pd.Series]
    floor: Callable[[pd.DataFrame], pd.Series] = lambda rows: pd.Series(0.0, rows.index)
    needs_ttft: bool = False
    parts: tuple[Objective, ...] = ()


def _speed(rows: pd.DataFrame) -> pd.Series:
    # A run without a completed request has no TPOT.
    return (1.0 / rows["tpot_mean_s"]).fillna(0.0)


THROUGHPUT: Final = Metric("throughput", "throughput", "output tokens/s", lambda rows: rows["throughput_tok_s"])
GOODPUT: Final = Metric(
    "goodput",
    "goodput",
    "requests/s within their SLOs",
    lambda rows: rows["goodput_per_s"],
    floor=lambda rows: 0.01 * rows["requests"] / rows["window_s"],
)
SPEED: Final = Metric("tpot", "speed of a user (1/TPOT)", "tokens/s of a user", _speed, needs_ttft=True)
FRONT: Final = Metric(
    "front",
    "front of throughput and speed",
    "square root of throughput times speed of a user",
    lambda rows: (rows["throughput_tok_s"] * _speed(rows)) ** 0.5,
    needs_ttft=True,
    parts=("throughput", "tpot"),
)
METRICS: Final[dict[str, Metric]] = {metric.key: metric for metric in (THROUGHPUT, GOODPUT, SPEED, FRONT)}


def default_objective(scenario: Scenario) -> Objective:
    """Throughput for a closed loop; goodput for an open loop, which fixes the throughput while it keeps up."""
    return "throughput" if scenario.workload.clients is not None else "goodput"


def figures(rows: pd.DataFrame, objective: str) -> pd.Series:
    """Objective value of each row; higher is better, 0 is the minimum."""
    return METRICS[objective].value(rows)


def floor(rows: pd.DataFrame, objective: str) -> pd.Series:
    """Lower bound of the objective value of each row in a score."""
    return METRICS[objective].floor(rows)


def log_score(rows: pd.DataFrame, objective: str) -> pd.Series:
    """Natural logarithm of :func:`figures`, bounded below by :func:`floor`."""
    with np.errstate(divide="ignore"):
        return figures(rows, objective).clip(lower=floor(rows, objective)).transform(np.log)


def scores(rows: pd.DataFrame, objective: str) -> pd.Series:
    """Score of each arm: the mean of :func:`log_score` over its rows.

    For an objective with ``needs_ttft``, an arm whose TTFT attainment is too low at some load scores below every arm
    with sufficient attainment at all loads, the lower the more requests miss their TTFT.
    """
    by_arm = log_score(rows, objective).groupby(rows["arm"]).mean()
    if METRICS[objective].needs_ttft:
        short = (REQUIRED_ATTAINMENT - ttft_attainment(rows)).clip(lower=0.0).groupby("arm").mean()
        by_arm = by_arm.where(short == 0.0, INFEASIBLE - short)
    return by_arm


def score_figure(score: float) -> float:
    """Objective value that a score of :func:`scores` represents; NaN with insufficient TTFT attainment."""
    return math.exp(score) if score > INFEASIBLE else math.nan


def ttft_attainment(rows: pd.DataFrame) -> pd.Series:
    """Share of requests within their TTFT by arm and load, mean over seeds."""
    # Rounded, since the mean of equal shares may differ in the last digit.
    return rows.groupby(["arm", "load"])["ttft_attainment"].mean().round(9)
