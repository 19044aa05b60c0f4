"""One quantity against another, a line per serving mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dspark_tuning.reporting.numbers import Estimate, estimate, number
from dspark_tuning.reporting.page import Html, figure
from dspark_tuning.reporting.plots import doubling, drawing, line, styles
from dspark_tuning.reporting.table import Table


class Point(NamedTuple):
    """A point of a curve.

    Attributes:
        load: The load with its unit: ``64 clients``, ``3 requests/s``.
    """

    load: str
    x: float
    y: Estimate


class Curve(NamedTuple):
    """Points of one serving mode, in the order in which they are joined."""

    name: str
    points: Sequence[Point]


def frontier(key: str, curves: Sequence[Curve]) -> Html:
    """Throughput (output tokens/s a GPU, ``y``) against the speed of a user (tokens/s, ``x``): the paper's Fig. 7."""
    return _figure(
        key,
        curves,
        "Speed of a user, tokens/s",
        "Output tokens/s a GPU",
        "Throughput of a GPU against the speed that a user sees (1/mean TPOT), a point per load, joined in order of "
        "load. Up and to the right is better.",
    )


def budget(key: str, curves: Sequence[Curve]) -> Html:
    """Verify tokens a request, anchor included (``y``), against clients (``x``): the paper's Fig. 8."""
    return _figure(
        key,
        curves,
        "Clients of a closed loop",
        "Verify tokens a request",
        "Tokens verified per request and round, anchor included, by clients of a closed loop.",
        doubles=True,
    )


def _figure(
    key: str, curves: Sequence[Curve], x_title: str, y_title: str, caption: str, *, doubles: bool = False
) -> Html:
    # Room for the legend of a narrow screen.
    chart = drawing(x_title, y_title, height=460 + 15 * len(curves))
    if doubles:
        doubling(chart, sorted({point.x for curve in curves for point in curve.points}))
    chart.update_yaxes(rangemode="tozero")
    line_styles = styles([curve.name for curve in curves])
    for (name, points), style in zip(curves, line_styles, strict=True):
        known = all(point.y.known for point in points)
        line(
            chart,
            name,
            style,
            [point.x for point in points],
            [point.y.value for point in points],
            low=[point.y.low for point in points] if known else (),
            high=[point.y.high for point in points] if known else (),
            customdata=[point.load for point in points],
            hovertemplate="%{customdata}: %{y:.4g}",
        )
    intervals = any(point.y.known for curve in curves for point in curve.points)
    rows = [
        [f"{name}, {point.load}", number(point.x), estimate(point.y)] for name, points in curves for point in points
    ]
    return figure(
        key,
        chart,
        caption + (" Whiskers are 95 % intervals." if intervals else ""),
        Table(f"{y_title}, by {x_title[0].lower()}{x_title[1:]}", ["Serving and load", x_title, y_title], rows),
    )
