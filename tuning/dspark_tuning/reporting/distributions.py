"""Cumulative distributions of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from dspark_tuning.reporting.numbers import milliseconds
from dspark_tuning.reporting.page import Html, figure
from dspark_tuning.reporting.plots import drawing, line, panels, reference, styles
from dspark_tuning.reporting.table import Table
from dspark_tuning.search.traced_run import QUANTILES

TABLED = (0.1, 0.5, 0.9, 0.95, 0.99)


def distributions(
    key: str,
    caption: str,
    times_s: Mapping[str, Mapping[str, NDArray[np.float64]]],
    levels_s: Mapping[str, Sequence[float]] | None = None,
) -> Html:
    """Cumulative share by time, a panel per kind of time and a line per name.

    Args:
        key: Element id of the chart.
        times_s: By kind and name, float64 [len(QUANTILES)] seconds at ``QUANTILES``.
        levels_s: By kind, the SLOs to draw.
    """
    rows = [
        [f"{kind}, {name}", *(milliseconds(values_s[QUANTILES.index(share)]) for share in TABLED)]
        for kind, named in times_s.items()
        for name, values_s in named.items()
    ]
    return figure(
        key,
        draw(times_s, levels_s),
        f"{caption}; the time axis is logarithmic.",
        Table("Percentiles in ms", ["Time", *(f"p{100 * share:g}" for share in TABLED)], rows),
    )


def draw(
    times_s: Mapping[str, Mapping[str, NDArray[np.float64]]], levels_s: Mapping[str, Sequence[float]] | None = None
) -> go.Figure:
    """The chart alone."""
    chart = drawing("ms", "", height=140 + 225 * len(times_s))
    axes = dict(zip(times_s, panels(chart, *times_s), strict=True))
    known_s = [end for named in times_s.values() for values in named.values() for end in values[[0, -1]] if end > 0]
    # Ticks at 1, 2 and 5 of a decade, or at decades where there are many.
    known_s += [level_s for levels in (levels_s or {}).values() for level_s in levels]
    few = max(known_s, default=1.0) < 300 * min(known_s, default=1.0)
    chart.update_xaxes(type="log", tickformat="~g", dtick="D2" if few else 1)
    chart.update_yaxes(range=[0, 1.03], tickformat=".0%")
    for kind, named in times_s.items():
        for (name, values_s), style in zip(named.items(), styles(list(named)), strict=True):
            line(
                chart,
                name,
                style,
                1e3 * values_s,
                QUANTILES,
                symbols=7,
                yaxis=axes[kind],
                legendgroup=name,
                showlegend=axes[kind] == "y",
                hovertemplate="%{x:.4g} ms: %{y:.1%}",
            )
    marks = [
        (axes[kind], 1e3 * level_s) for kind, levels in (levels_s or {}).items() for level_s in sorted(set(levels))
    ]
    for place, (axis, level_ms) in enumerate(marks):
        reference(
            chart,
            "service levels",
            [level_ms, level_ms],
            [0, 1],
            yaxis=axis,
            legendgroup="levels",
            showlegend=place == 0,
        )
    return chart
