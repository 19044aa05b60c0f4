"""Numbers as text: three digits, milliseconds, percent, intervals, gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dspark_tuning.reporting.table import Cell, Strong

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario
    from dspark_tuning.search.comparison import Gain

# A value that is missing, and one that would depend on the length of a saturated run.
NONE = "-"
NOT_STEADY = "not steady"


def number(value: float) -> str:
    """Three or more significant digits; a dash for NaN and infinities."""
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 or size == 0 else f"{value:#.3g}"


def heading(text: str) -> str:
    """The text with its first letter in upper case; abbreviations stay as they are."""
    return text[:1].upper() + text[1:]


def milliseconds(*values_s: float) -> str:
    """``12.3``, or ``12.3 / 45.6`` for several times."""
    return " / ".join(number(value_s * 1e3) for value_s in values_s)


def percent(share: float) -> str:
    """``90.0 %``."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else NONE


def steady(text: str, saturated: bool) -> str:
    """The text, or ``not steady`` for a saturated run, where the value depends on the length of the run."""
    return NOT_STEADY if saturated else text


def interval(gain: Gain) -> Cell:
    """``1.034 [1.021, 1.047]`` or ``+2.31/s [2.20, 2.42]``, in bold where the interval excludes 1 or 0."""
    return gain_text(gain._asdict())


def gain_text(row: Mapping[Any, Any]) -> Cell:
    """:func:`interval` of a mapping with ``low``, ``high`` and ``ratio``, ``difference`` or both, one of them NaN."""
    difference, ratio = row.get("difference"), row.get("ratio")
    if difference is not None and not math.isnan(difference):
        text, neutral = f"{'+' * (difference >= 0)}{number(difference)}/s", 0.0
        low, high = number(row["low"]), number(row["high"])
    elif ratio is None or math.isnan(ratio):
        return NONE
    else:
        text, low, high = (f"{x:.3f}" if ratio < 2 else number(x) for x in (ratio, row["low"], row["high"]))
        neutral = 1.0
    if not math.isfinite(row["low"]):
        return text
    text = f"{text} [{low}, {high}]"
    return Strong(text) if row["low"] > neutral or row["high"] < neutral else text


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN ends where it has none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def estimate(value: Estimate, *, share: bool = False) -> str:
    """``12.3 [11.9, 12.8]``, or in per cent."""
    middle, low, high = (f"{part:.1%}" if share and math.isfinite(part) else number(part) for part in value)
    return f"{middle} [{low}, {high}]" if value.known else middle


def load_label(scenario: Scenario) -> str:
    """The unit of a scenario's loads."""
    return "clients" if scenario.workload.clients is not None else "load (factor on the scenario's rate)"
