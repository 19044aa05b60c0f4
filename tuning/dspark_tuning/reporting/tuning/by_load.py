"""Throughput, goodput and the objective by load, beside SGLang's defaults."""

from __future__ import annotations

from collections.abc import Container, Sequence

import pandas as pd
import plotly.graph_objects as go

from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting.numbers import NONE, arms_of, gains, heading, interval, load_label, number
from dspark_tuning.reporting.page import Cell, Html, Row, Section, figure, paragraph, subheading, table
from dspark_tuning.reporting.plots import FIXED_NAMES, arm_lines, doubling, drawing, panels
from dspark_tuning.reporting.tables import steady
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import gain_of
from dspark_tuning.search.objectives import METRICS, THROUGHPUT, Metric, figures
from dspark_tuning.search.summary import saturated
from dspark_tuning.search.tune import Outcome

# Arms that differ from the choice in the schedule alone.
SAME_FLAGS = (
    baselines.TUNED_FLAGS,
    baselines.STATIC,
    baselines.GREEDY,
    baselines.ARGMAX,
    baselines.ALIGNED,
    baselines.ORACLE,
)
UNSCHEDULED = {baselines.PLAIN, baselines.DEFAULT, baselines.TUNED_FLAGS, baselines.OWN_FLAGS, *FIXED_NAMES}


def section(outcome: Outcome) -> Section:
    parts: list[Html] = []
    for key in outcome.versus["metric"].unique():
        metric = METRICS[key]
        parts += [subheading(heading(metric.title)), _ratio_figure(outcome, metric), _gain_figure(outcome, metric)]
    note = paragraph(
        "Where one of two arms has next to nothing, such as the goodput of fewer than 1 % of the requests, a ratio "
        "would say little: the tables have their difference a second, and the drawings leave them out."
    )
    return Section("loads", "By load", [*parts, note])


def load_table(scenario: Scenario, caption: str, figures: pd.DataFrame, cells: Sequence[Cell]) -> Html:
    """A table of arms by load.

    Args:
        figures: Columns arm and load.
        cells: What to show of each row of ``figures``.
    """
    at = dict(zip(zip(figures["arm"], figures["load"], strict=True), cells, strict=True))
    loads = sorted(figures["load"].unique())
    header = [f"Arm, by {load_label(scenario)}", *(f"{load:g}" for load in loads)]
    return table(caption, header, [Row(arm, [at.get((arm, load), NONE) for load in loads]) for arm in arms_of(figures)])


def mean_table(
    outcome: Outcome, caption: str, values: pd.Series, not_steady: Container[tuple[str, float]] = ()
) -> Html:
    """Means of a figure by arm and load.

    Args:
        values: The figure, one a row of the report set.
        not_steady: Arms and loads whose mean depends on the length of the run.
    """
    means = outcome.rows.assign(value=values).groupby(["arm", "load"], sort=False)["value"].mean()
    cells = [steady(number(mean), at in not_steady) for at, mean in means.items()]
    return load_table(outcome.scenario, caption, means.reset_index(), cells)


def _ratio_figure(outcome: Outcome, metric: Metric) -> Html:
    found = gains(outcome.rows, baselines.DEFAULT, metric)
    ratio = f"{heading(metric.title)} as a ratio to that of {baselines.DEFAULT}"
    return figure(
        f"{metric.key}-by-load",
        _ratio_drawing(outcome, found, f"ratio of {metric.title}"),
        f"{ratio} on the same requests and truths, by load, on a logarithmic scale; whiskers are 95 % intervals. Arms "
        "are set side by side around their load. The thin dotted lines are fixed lengths, each with its length at its "
        "start.",
        load_table(outcome.scenario, f"{ratio}, with its 95 % interval", found, _intervals(found)),
        mean_table(
            outcome,
            f"Mean {metric.unit}",
            figures(outcome.rows, metric.key),
            () if metric == THROUGHPUT else saturated(outcome.rows),
        ),
    )


def _ratio_drawing(outcome: Outcome, found: pd.DataFrame, title: str) -> go.Figure:
    drawn = drawing(load_label(outcome.scenario), heading(title), height=760)
    doubling(drawn, outcome.scenario.loads)
    upper, lower = panels(drawn, "Without a schedule, and the choice", "With a schedule")
    drawn.update_yaxes(type="log", tickformat=".4~g", nticks=6)
    found = found[found["ratio"].notna()]
    unscheduled = found["arm"].isin(UNSCHEDULED)
    chosen = found["arm"] == outcome.winner.name
    arm_lines(drawn, found[unscheduled | chosen], "load", "ratio", "low", "high", axis=upper, side_by_side=True)
    arm_lines(drawn, found[~unscheduled | chosen], "load", "ratio", "low", "high", axis=lower, side_by_side=True)
    return drawn


def _gain_figure(outcome: Outcome, metric: Metric) -> Html:
    versus = outcome.versus
    found = versus[(versus["metric"] == metric.key) & versus["load"].notna() & (versus["arm"] != outcome.winner.name)]
    drawn = drawing(load_label(outcome.scenario), f"Ratio of {metric.title}")
    doubling(drawn, outcome.scenario.loads)
    drawn.update_yaxes(type="log", tickformat=".4~g", nticks=6)
    shown = found[found["arm"].isin(SAME_FLAGS) & found["ratio"].notna()]
    arm_lines(drawn, shown, "load", "ratio", "low", "high", side_by_side=True)
    ratio = f"{heading(metric.title)} of '{outcome.winner.name}' over each arm"
    return figure(
        f"{metric.key}-gain",
        drawn,
        f"{ratio} with the tuned flags, on the same requests and truths, by load; above 1 the choice is better. "
        "Whiskers are 95 % intervals.",
        load_table(outcome.scenario, f"{ratio}, with its 95 % interval", found, _intervals(found)),
    )


def _intervals(found: pd.DataFrame) -> list[Cell]:
    return [interval(gain_of(row)) for row in found.to_dict("records")]
