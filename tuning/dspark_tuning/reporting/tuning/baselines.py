"""The tuned policy beside every baseline, over all cells of the report set."""

from __future__ import annotations

import math

import pandas as pd

from dspark_tuning.reporting.numbers import interval, milliseconds, number, percent, steady
from dspark_tuning.reporting.page import Html, Section, paragraph
from dspark_tuning.reporting.table import Cell, Strong, Table
from dspark_tuning.search import summary
from dspark_tuning.search.comparison import gain_of
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    remarks = [paragraph(f"{sentence}.") for sentence in summary.remarks(outcome.rows, outcome.options.objective)]
    return Section("baselines", "Every baseline", [arms(outcome), *remarks, *_incomplete(outcome.rows)])


def arms(outcome: Outcome) -> Table:
    """One row per arm: means, and the gain of the tuned policy over it in each metric."""
    winner = outcome.winner.name
    metrics = list(outcome.versus["metric"].unique())
    cells = int((outcome.rows["arm"] == winner).sum())
    title = (
        f"Means over the {cells:,} report cells of each arm (a policy with its server flags); TPOT and TTFT in ms. The "
        f"last columns are '{winner}' over the arm, paired on the same requests and truths, with the 95 % interval: "
        "ratios are geometric means over all loads; the mean difference a second stands where one of the two has next "
        "to nothing. Bold where the interval excludes no gain."
    )
    columns = [
        "Arm", "Output tokens/s", "Within SLOs", "Good requests/s", "TPOT p50", "TPOT p99", "TTFT p50", "TTFT p99",
        "Accepted length", "Verify length", *(f"{winner} over arm, {METRICS[metric].title}" for metric in metrics),
    ]  # fmt: skip
    rows = [
        [
            Strong(f"{row.arm} (chosen)") if row.arm == winner else row.arm,
            number(row.throughput_tok_s),
            percent(row.attainment),
            *(
                steady(text, bool(row.saturated))
                for text in (
                    number(row.goodput_per_s),
                    *map(milliseconds, (row.tpot_p50_s, row.tpot_p99_s, row.ttft_p50_s, row.ttft_p99_s)),
                )
            ),
            number(row.accepted_length),
            number(row.verify_length),
            *("" if row.arm == winner else _gain(outcome, row.arm, metric) for metric in metrics),
        ]
        for row in summary.summaries(outcome)
    ]
    return Table(title, columns, rows)


def _gain(outcome: Outcome, arm: str, metric: str) -> Cell:
    versus = outcome.versus
    (row,) = versus[(versus["arm"] == arm) & (versus["metric"] == metric) & versus["load"].isna()].to_dict("records")
    return interval(gain_of(row))


def _incomplete(rows: pd.DataFrame) -> list[Html]:
    """How many requests did not finish, were aborted or ran twice, where any did."""
    lost = {
        "unfinished when their simulation ended": rows["unfinished"].sum(),
        "aborted": rows["aborted"].sum(),
        "retracted and run again": rows["retracted"].sum(),
    }
    counts = [f"{number(count)} {fate}" for fate, count in lost.items() if count and math.isfinite(count)]
    return [paragraph(f"Requests over all arms and cells: {'; '.join(counts)}.")] if counts else []
