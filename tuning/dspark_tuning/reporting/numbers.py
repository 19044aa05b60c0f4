"""Figures as a person reads them, and the ratios of arms by load."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting.page import Cell, Strong
from dspark_tuning.search.comparison import Difference, Gain, gain
from dspark_tuning.search.objectives import Metric

NONE = "\N{EN DASH}"


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


def interval(gain: Gain) -> Cell:
    """``1.034 [1.021, 1.047]`` or ``+2.31/s [2.20, 2.42]``, strong where the interval excludes 1 or 0."""
    if isinstance(gain, Difference):
        text, nothing = f"{'+' * (gain.difference >= 0)}{number(gain.difference)}/s", 0.0
        low, high = number(gain.low), number(gain.high)
    else:
        text, low, high = (f"{value:.3f}" if gain.ratio < 2 else number(value) for value in gain[:3])
        nothing = 1.0
    if not math.isfinite(gain.low):
        return text
    text = f"{text} [{low}, {high}]"
    return Strong(text) if gain.low > nothing or gain.high < nothing else text


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


def gains(rows: pd.DataFrame, base: str, metric: Metric) -> pd.DataFrame:
    """Every arm over ``base`` by load; columns arm, load and those of :class:`Ratio` and :class:`Difference`."""
    return pd.DataFrame(
        [
            {"arm": arm, "load": load, "ratio": math.nan, **gain(part, arm, base, metric.key)._asdict()}
            for load, part in rows.groupby("load")
            for arm in arms_of(rows)
        ]
    )


def arms_of(rows: pd.DataFrame) -> list[str]:
    """Arms in the order in which they were simulated."""
    return [str(arm) for arm in rows["arm"].unique()]
