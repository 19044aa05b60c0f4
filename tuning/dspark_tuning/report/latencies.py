"""How latencies are distributed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dspark_simulator.workloads import RequestClass
from dspark_tuning.report.numbers import milliseconds
from dspark_tuning.report.page import Html, Row, figure, table
from dspark_tuning.report.plots import drawing, line, panels, reference, style_of
from dspark_tuning.watch import LATENCIES, QUANTILES, Watched

TOLD = (0.1, 0.5, 0.9, 0.95, 0.99)


def latencies(key: str, runs: Sequence[Watched], classes: Sequence[RequestClass] = ()) -> Html:
    """The share of requests within a latency, a line a run, for each kind of latency.

    Args:
        key: Names the drawing in the page.
        runs: On the same requests; told apart by their arms.
        classes: Whose service levels to draw.
    """
    drawn = drawing("ms", "", height=820)
    axes = panels(drawn, *(kind.upper() for kind in LATENCIES))
    ends_s = [run.latencies[kind][[0, -1]] for run in runs for kind in LATENCIES]
    # Ticks at 1, 2 and 5 of a decade, or at decades where there are many.
    drawn.update_xaxes(type="log", tickformat="~g", dtick="D2" if np.nanmax(ends_s) < 1e3 * np.nanmin(ends_s) else 1)
    drawn.update_yaxes(range=[0, 1.03], tickformat=".0%")
    for axis, kind in zip(axes, LATENCIES, strict=True):
        for place, run in enumerate(runs):
            line(
                drawn,
                run.arm,
                style_of(run.arm, place),
                1e3 * run.latencies[kind],
                QUANTILES,
                symbols=7,
                yaxis=axis,
                legendgroup=run.arm,
                showlegend=axis == "y",
                hovertemplate="%{x:.4g} ms: %{y:.1%}",
            )
    for axis, kind in zip(axes, ("ttft", "tpot"), strict=False):
        for level_s in sorted({getattr(klass.slo, f"{kind}_s") for klass in classes}):
            known = any(trace.legendgroup == "slo" for trace in drawn.data)
            reference(
                drawn,
                "service levels",
                [1e3 * level_s] * 2,
                [0, 1],
                yaxis=axis,
                legendgroup="slo",
                showlegend=not known,
            )
    rows = [
        Row(f"{kind.upper()}, {run.arm}", [milliseconds(run.latencies[kind][QUANTILES.index(share)]) for share in TOLD])
        for kind in LATENCIES
        for run in runs
    ]
    levels_told = " Thin dotted lines are the classes' service levels." if classes else ""
    return figure(
        key,
        drawn,
        "Share of the requests (TTFT, TPOT) and of the tokens (ITL) that take at most so long, all classes together; "
        f"the scale of time is logarithmic.{levels_told}",
        table("Latencies in ms by percentile", ["Latency", *(f"p{100 * share:g}" for share in TOLD)], rows),
    )
