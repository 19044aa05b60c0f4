"""Every metric by load, as ratios to SGLang's defaults; throughput against the speed that a user sees."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import pandas as pd
import plotly.graph_objects as go

from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting.numbers import NONE, heading, interval, load_label, number, steady
from dspark_tuning.reporting.page import Html, Section, figure, paragraph, subheading
from dspark_tuning.reporting.plots import FIXED_NAMES, arm_lines, doubling, drawing, panels
from dspark_tuning.reporting.table import Cell, Table
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import gain, gain_of
from dspark_tuning.search.objectives import METRICS, SPEED, THROUGHPUT, Metric, figures
from dspark_tuning.search.summary import saturated
from dspark_tuning.search.tune import Outcome

# Arms that differ from the tuned policy in the schedule alone.
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


def frontier(outcome: Outcome) -> Section:
    """Throughput of the server against the output speed of a user, a point per load."""
    rows = outcome.rows.assign(speed=1 / outcome.rows["tpot_mean_s"])
    points = rows.groupby(["arm", "load"], sort=False)[["throughput_tok_s", "speed"]].mean().reset_index()
    chart = drawing(f"Speed of a user, {SPEED.unit}", f"Throughput, {THROUGHPUT.unit}")
    arm_lines(chart, points, "speed", "throughput_tok_s")
    return Section(
        "frontier",
        "Throughput against speed",
        [
            figure(
                "frontier-by-arm",
                chart,
                "Throughput against the speed that a user sees (1/mean TPOT), a point per load, joined in order of "
                "load. Up and to the right is better.",
                mean_table(outcome, f"Speed of a user, {SPEED.unit}", rows["speed"]),
                mean_table(outcome, f"Throughput, {THROUGHPUT.unit}", rows["throughput_tok_s"]),
            )
        ],
    )


def load_table(scenario: Scenario, caption: str, figures: pd.DataFrame, cells: Sequence[Cell]) -> Table:
    """A table of arms by load.

    Args:
        figures: Columns arm and load.
        cells: One per row of ``figures``.
    """
    at = dict(zip(zip(figures["arm"], figures["load"], strict=True), cells, strict=True))
    loads = sorted(figures["load"].unique())
    columns = [f"Arm, by {load_label(scenario)}", *(f"{load:g}" for load in loads)]
    rows = [[arm, *(at.get((arm, load), NONE) for load in loads)] for arm in figures["arm"].unique()]
    return Table(caption, columns, rows)


def mean_table(
    outcome: Outcome, caption: str, values: pd.Series, not_steady: Container[tuple[str, float]] = ()
) -> Table:
    """Means of a value by arm and load.

    Args:
        values: One per row of the report set.
        not_steady: Arms and loads whose mean depends on the length of the run.
    """
    means = outcome.rows.assign(value=values).groupby(["arm", "load"], sort=False)["value"].mean()
    cells = [steady(number(mean), at in not_steady) for at, mean in means.items()]
    return load_table(outcome.scenario, caption, means.reset_index(), cells)


def _gain_table(outcome: Outcome, caption: str, by_arm: pd.DataFrame) -> Table:
    return load_table(outcome.scenario, caption, by_arm, [interval(gain_of(row)) for row in by_arm.to_dict("records")])


def _ratio_figure(outcome: Outcome, metric: Metric) -> Html:
    by_arm = _gains(outcome.rows, metric)
    ratio = f"{heading(metric.title)} as a ratio to that of {baselines.DEFAULT}"
    return figure(
        f"{metric.key}-by-load",
        _ratio_drawing(outcome, by_arm, f"ratio of {metric.title}"),
        f"{ratio} on the same requests and truths, by load, on a logarithmic scale; whiskers are 95 % intervals. Arms "
        "are set side by side around their load. The thin dotted lines are fixed lengths, each with its length at its "
        "start.",
        _gain_table(outcome, f"{ratio}, with its 95 % interval", by_arm),
        mean_table(
            outcome,
            f"Mean {metric.unit}",
            figures(outcome.rows, metric.key),
            () if metric == THROUGHPUT else saturated(outcome.rows),
        ),
    )


def _ratio_drawing(outcome: Outcome, by_arm: pd.DataFrame, title: str) -> go.Figure:
    chart = drawing(load_label(outcome.scenario), heading(title), height=760)
    doubling(chart, outcome.scenario.loads)
    upper, lower = panels(chart, "Without a schedule, and the tuned policy", "With a schedule")
    chart.update_yaxes(type="log", tickformat=".4~g", nticks=6)
    by_arm = by_arm[by_arm["ratio"].notna()]
    unscheduled = by_arm["arm"].isin(UNSCHEDULED)
    chosen = by_arm["arm"] == outcome.winner.name
    arm_lines(chart, by_arm[unscheduled | chosen], "load", "ratio", "low", "high", axis=upper, side_by_side=True)
    arm_lines(chart, by_arm[~unscheduled | chosen], "load", "ratio", "low", "high", axis=lower, side_by_side=True)
    return chart


def _gain_figure(outcome: Outcome, metric: Metric) -> Html:
    versus = outcome.versus
    by_arm = versus[(versus["metric"] == metric.key) & versus["load"].notna() & (versus["arm"] != outcome.winner.name)]
    chart = drawing(load_label(outcome.scenario), f"Ratio of {metric.title}")
    doubling(chart, outcome.scenario.loads)
    chart.update_yaxes(type="log", tickformat=".4~g", nticks=6)
    shown = by_arm[by_arm["arm"].isin(SAME_FLAGS) & by_arm["ratio"].notna()]
    arm_lines(chart, shown, "load", "ratio", "low", "high", side_by_side=True)
    ratio = f"{heading(metric.title)} of '{outcome.winner.name}' over each arm"
    return figure(
        f"{metric.key}-gain",
        chart,
        f"{ratio} with the tuned flags, on the same requests and truths, by load; above 1 the tuned policy is better. "
        "Whiskers are 95 % intervals.",
        _gain_table(outcome, f"{ratio}, with its 95 % interval", by_arm),
    )


def _gains(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Every arm over SGLang's defaults by load; columns arm, load and those of both forms of a gain."""
    return pd.DataFrame(
        [
            {"arm": arm, "load": load, "ratio": math.nan, **gain(part, arm, baselines.DEFAULT, metric.key)._asdict()}
            for load, part in rows.groupby("load")
            for arm in rows["arm"].unique()
        ]
    )
