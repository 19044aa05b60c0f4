"""Figures as a person reads them, and the ratios of arms by load."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_tuning.compare import Ratio, gain, ratio
from dspark_tuning.evaluate import log_score
from dspark_tuning.report.page import Cell, Strong

NONE = "\N{EN DASH}"


class Metric(NamedTuple):
    """What arms are compared in: ``key`` is the objective's name, ``title`` and ``unit`` are for people."""

    key: str
    title: str
    unit: str


THROUGHPUT = Metric("throughput", "throughput", "output tokens/s")
GOODPUT = Metric("goodput", "goodput", "requests/s within their SLOs")
SPEED = Metric("tpot", "speed of a user (1/TPOT)", "tokens/s of a user")
FRONT = Metric("front", "front of throughput and speed", "square root of throughput times speed of a user")
METRICS = (THROUGHPUT, GOODPUT, SPEED)
OBJECTIVES = {metric.key: metric for metric in (*METRICS, FRONT)}


def number(value: float) -> str:
    """Three or more significant digits; a dash where there is no value."""
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 or size == 0 else f"{value:#.3g}"


def heading(text: str) -> str:
    """Text that starts a line: abbreviations in it stay as they are."""
    return text[:1].upper() + text[1:]


def milliseconds(value_s: float) -> str:
    return number(value_s * 1e3)


def interval(gain: Ratio) -> Cell:
    """``1.034 [1.021, 1.047]``, strong where the interval excludes 1."""
    ratio, low, high = (f"{value:.3f}" if gain.ratio < 2 else number(value) for value in gain[:3])
    if not math.isfinite(gain.low):
        return ratio
    text = f"{ratio} [{low}, {high}]"
    return Strong(text) if gain.low > 1 or gain.high < 1 else text


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN ends where it has none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def estimate(told: Estimate, *, share: bool = False) -> str:
    """``12.3 [11.9, 12.8]``, or in per cent."""
    value, low, high = (f"{part:.1%}" if share else number(part) for part in told)
    return f"{value} [{low}, {high}]" if told.known else value


def load_label(scenario: Scenario) -> str:
    """What a load is a number of."""
    return "clients" if scenario.workload.clients is not None else "load (factor on the scenario's rate)"


def ratios(rows: pd.DataFrame, base: str, metric: Metric) -> pd.DataFrame:
    """Paired ratios of every arm over ``base``; columns arm, load and those of :class:`Ratio`."""
    scores = rows[["arm", "load", "seed"]].assign(score=log_score(rows, metric.key))
    found = []
    for load, part in scores.groupby("load"):
        # A seed names one run of an arm at a load, so rows of this table are pairs.
        table = part.pivot(index="seed", columns="arm", values="score")
        for arm in arms_of(rows):
            found.append({"arm": arm, "load": load, **ratio((table[arm] - table[base]).to_numpy())._asdict()})
    return pd.DataFrame(found)


def overall(rows: pd.DataFrame, arm: str, base: str, metric: Metric) -> Ratio:
    """The paired ratio of ``arm`` over ``base`` over all loads."""
    return gain(rows, arm, base, metric.key)


def arms_of(rows: pd.DataFrame) -> list[str]:
    """Arms in the order in which they were simulated."""
    return [str(arm) for arm in rows["arm"].unique()]
