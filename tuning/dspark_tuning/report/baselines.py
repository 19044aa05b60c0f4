"""Every way of serving beside the chosen one, over all cells of the report set."""

from __future__ import annotations

import math

import pandas as pd

from dspark_tuning import summary
from dspark_tuning.compare import Ratio
from dspark_tuning.report.numbers import GOODPUT, THROUGHPUT, Metric, interval, milliseconds, number
from dspark_tuning.report.page import Html, Row, Section, Strong, paragraph, table
from dspark_tuning.tables import percent, steady
from dspark_tuning.tune import Outcome


def section(outcome: Outcome) -> Section:
    winner = outcome.winner.name
    cells = int((outcome.rows["arm"] == winner).sum())
    caption = (
        f"Means over the {cells:,} report cells of each arm; TPOT and TTFT in ms. The last two columns are '{winner}' "
        "over the arm, paired on the same requests and truths, geometric mean over all loads with its 95 % interval, "
        "bold where the interval excludes 1."
    )
    header = [
        "Arm", "Output tokens/s", "Within SLOs", "Good requests/s", "TPOT p50", "TPOT p99", "TTFT p50", "TTFT p99",
        "Accepted length", "Verify length", f"{winner} ÷ arm, throughput", f"{winner} ÷ arm, goodput",
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
                *("" if row.arm == winner else interval(_gain(outcome, row.arm, m)) for m in (THROUGHPUT, GOODPUT)),
            ],
        )
        for row in summary.summaries(outcome)
    ]
    grown = [paragraph(f"{sentence}.") for sentence in summary.saturations(outcome.rows)]
    return Section("baselines", "Every baseline", [table(caption, header, rows), *grown, *_cut_short(outcome.rows)])


def _gain(outcome: Outcome, arm: str, metric: Metric) -> Ratio:
    versus = outcome.versus
    row = versus[(versus["arm"] == arm) & (versus["metric"] == metric.key) & versus["load"].isna()].iloc[0]
    return Ratio(*(row[field] for field in Ratio._fields))


def _cut_short(rows: pd.DataFrame) -> list[Html]:
    """Says so where cells did not finish what they were given."""
    lost = {
        "unfinished when their simulation ended": rows["unfinished"].sum(),
        "aborted": rows["aborted"].sum(),
        "retracted and run again": rows["retracted"].sum(),
    }
    found = [f"{number(count)} {what}" for what, count in lost.items() if count and math.isfinite(count)]
    return [paragraph(f"Requests over all arms and cells: {'; '.join(found)}.")] if found else []
