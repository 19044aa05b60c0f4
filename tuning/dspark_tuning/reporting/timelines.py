"""Load, queue, verify length and KV use over a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dspark_tuning.reporting.numbers import number
from dspark_tuning.reporting.page import Html, figure
from dspark_tuning.reporting.plots import drawing, line, panels, styles
from dspark_tuning.reporting.table import Table
from dspark_tuning.search.timeline import PARTS, Timeline

PANELS = {
    "running": "Running requests",
    "queued": "Waiting requests",
    "verify_length": "Verify length, drafts",
    "kv_share": "KV pool in use",
}


Runs = Sequence[tuple[str, Timeline]]


def timelines(key: str, runs: Runs) -> Html:
    """Load, queue, verify length and KV over time, a line per run.

    Args:
        key: Element id of the chart.
        runs: Each with its name; panels without data are left out.
    """
    known = _known(runs)
    tables = [
        Table(
            f"{name}, by seconds",
            ["Seconds", *known.values()],
            [
                [number(at_s), *map(number, values)]
                for at_s, *values in zip(run.at_s, *(getattr(run, field) for field in known), strict=True)
            ],
        )
        for name, run in runs
    ]
    return figure(
        key,
        draw(runs),
        f"Over time, from the first step to the last; a point is the mean over 1/{PARTS} of a run.",
        *tables,
    )


def _known(runs: Runs) -> dict[str, str]:
    return {
        field: title
        for field, title in PANELS.items()
        if any(not np.isnan(getattr(run, field)).all() for _, run in runs)
    }


def draw(runs: Runs) -> go.Figure:
    """The chart alone."""
    known = _known(runs)
    chart = drawing("seconds", "", height=140 + 190 * len(known))
    axes = dict(zip(known, panels(chart, *known.values()), strict=True))
    line_styles = styles([name for name, _ in runs])
    chart.update_yaxes(rangemode="tozero", nticks=5)
    for field, axis in axes.items():
        if field == "kv_share":
            chart.update_layout({f"yaxis{axis[1:]}": {"tickformat": ".2~p"}})
        for (name, run), style in zip(runs, line_styles, strict=True):
            line(
                chart,
                name,
                style,
                run.at_s,
                getattr(run, field),
                symbols=8,
                yaxis=axis,
                legendgroup=name,
                showlegend=axis == "y",
                cliponaxis=False,
            )
    return chart
