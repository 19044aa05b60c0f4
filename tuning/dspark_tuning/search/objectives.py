"""What a search maximises, and what arms are compared in."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from dspark_simulator.scenario import Scenario

Objective = Literal["throughput", "goodput", "tpot", "front"]

# A mean TPOT falls as requests are kept waiting, so an arm has to give this share of them their TTFT at every load.
REQUIRED_ATTAINMENT: Final = 0.95
# Below every score that an arm can have by its times.
INFEASIBLE: Final = -20.0


class Metric(NamedTuple):
    """What arms are compared in: ``key`` is the objective's name, ``title`` and ``unit`` are for people.

    Attributes:
        needs_ttft: It improves as requests are kept waiting.
    """

    key: Objective
    title: str
    unit: str
    needs_ttft: bool = False


THROUGHPUT: Final = Metric("throughput", "throughput", "output tokens/s")
GOODPUT: Final = Metric("goodput", "goodput", "requests/s within their SLOs")
SPEED: Final = Metric("tpot", "speed of a user (1/TPOT)", "tokens/s of a user", needs_ttft=True)
FRONT: Final = Metric(
    "front", "front of throughput and speed", "square root of throughput times speed of a user", needs_ttft=True
)
METRICS: Final[dict[str, Metric]] = {metric.key: metric for metric in (THROUGHPUT, GOODPUT, SPEED, FRONT)}


def default_objective(scenario: Scenario) -> Objective:
    """Goodput at the rate of an open loop, which has the throughput of its arrivals as long as it keeps up."""
    return "throughput" if scenario.workload.clients is not None else "goodput"


def figures(rows: pd.DataFrame, objective: str) -> pd.Series:
    """The objective's figure of each row; more is better, and 0 is nothing."""
    if objective == "goodput":
        return rows["goodput_per_s"]
    # A run in which no request was done has no TPOT.
    speed = (1.0 / rows["tpot_mean_s"]).fillna(0.0)
    if objective == "tpot":
        return speed
    if objective == "front":
        return (rows["throughput_tok_s"] * speed) ** 0.5
    return rows["throughput_tok_s"]


def floor(rows: pd.DataFrame, objective: str) -> pd.Series:
    """The least figure that a score counts: of goodput 1 % of the requests, so that hopeless rows still compare."""
    return 0.01 * rows["requests"] / rows["window_s"] if objective == "goodput" else pd.Series(0.0, rows.index)


def log_score(rows: pd.DataFrame, objective: str) -> pd.Series:
    """The natural logarithm of :func:`figures`, at least that of :func:`floor`."""
    with np.errstate(divide="ignore"):
        return figures(rows, objective).clip(lower=floor(rows, objective)).transform(np.log)


def scores(rows: pd.DataFrame, objective: str) -> pd.Series:
    """The score of each arm over all its rows, the mean of :func:`log_score`.

    Where the objective needs TTFT, an arm that gives it to too few requests at some load scores below every arm that
    gives it to enough at all loads, the lower the more requests it fails.
    """
    found = log_score(rows, objective).groupby(rows["arm"]).mean()
    if METRICS[objective].needs_ttft:
        short = (REQUIRED_ATTAINMENT - ttft_attainment(rows)).clip(lower=0.0).groupby("arm").mean()
        found = found.where(short == 0.0, INFEASIBLE - short)
    return found


def score_figure(score: float) -> float:
    """The figure that a score of :func:`scores` stands for; NaN where too few requests get their TTFT."""
    return math.exp(score) if score > INFEASIBLE else math.nan


def ttft_attainment(rows: pd.DataFrame) -> pd.Series:
    """Share of requests within their TTFT by arm and load, mean over seeds."""
    # Rounded: the mean of equal shares may be off by its last digit.
    return rows.groupby(["arm", "load"])["ttft_attainment"].mean().round(9)
