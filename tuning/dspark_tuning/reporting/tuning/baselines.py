"""Every way of serving beside the chosen one, over all cells of the report set."""

from __future__ import annotations

import math

import pandas as pd

from dspark_tuning.reporting.numbers import interval, milliseconds, number
from dspark_tuning.reporting.page import Html, Row, Section, Strong, paragraph, table
from dspark_tuning.reporting.tables import percent, steady
from dspark_tuning.search import summary
from dspark_tuning.search.comparison import Gain, gain_of
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    winner = outcome.winner.name
    metrics = list(outcome.versus["metric"].unique())
    cells = int((outcome.rows["arm"] == winner).sum())
    caption = (
        f"Means over the {cells:,} report cells of each arm; TPOT and TTFT in ms. The last columns are '{winner}' "
        "over the arm, paired on the same requests and truths, with the 95 % interval: ratios are geometric means over "
        "all loads; the mean difference a second stands where one of the two has next to nothing. Bold where the "
        "interval excludes no gain."
    )
    header = [
        "Arm", "Output tokens/s", "Within SLOs", "Good requests/s", "TPOT p50", "TPOT p99", "TTFT p50", "TTFT p99",
        "Accepted length", "Verify length", *(f"{winner} over arm, {METRICS[metric].title}" for metric in metrics),
    ]  # fmt: skip
    rows = [
        Row(
            Strong(f"{row.arm} (chosen)") if row.arm == winner else row.arm,
            [
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
                *("" if row.arm == winner else interval(_gain(outcome, row.arm, metric)) for metric in metrics),
            ],
        )
        for row in summary.summaries(outcome)
    ]
    grown = [paragraph(f"{sentence}.") for sentence in summary.remarks(outcome.rows, outcome.options.objective)]
    return Section("baselines", "Every baseline", [table(caption, header, rows), *grown, *_cut_short(outcome.rows)])


def _gain(outcome: Outcome, arm: str, metric: str) -> Gain:
    versus = outcome.versus
    (row,) = versus[(versus["arm"] == arm) & (versus["metric"] == metric) & versus["load"].isna()].to_dict("records")
    return gain_of(row)


def _cut_short(rows: pd.DataFrame) -> list[Html]:
    """Says so where cells did not finish what they were given."""
    lost = {
        "unfinished when their simulation ended": rows["unfinished"].sum(),
        "aborted": rows["aborted"].sum(),
        "retracted and run again": rows["retracted"].sum(),
    }
    found = [f"{number(count)} {what}" for what, count in lost.items() if count and math.isfinite(count)]
    return [paragraph(f"Requests over all arms and cells: {'; '.join(found)}.")] if found else []
