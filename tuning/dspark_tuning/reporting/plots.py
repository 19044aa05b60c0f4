"""The style of all charts: legible on white and on black, in colour and without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from dspark_tuning.search import baselines
from sglang_dspark.policy.belief import MAX_GAMMA


class Style(NamedTuple):
    """Dash, symbol and colour of a line; dash and symbol alone tell lines apart.

    Every colour has a contrast of 3 on the page's white and on its black.
    """

    colour: str
    dash: str
    symbol: str
    width: float = 1.5


STYLES = {
    baselines.PLAIN: Style("#2f7fc4", "longdash", "diamond"),
    baselines.DEFAULT: Style("#7d8288", "solid", "square"),
    baselines.TUNED_FLAGS: Style("#00946b", "dash", "triangle-up"),
    baselines.OWN_FLAGS: Style("#00946b", "dot", "triangle-up-open"),
    baselines.STATIC: Style("#c8528f", "dot", "triangle-down-open"),
    baselines.GREEDY: Style("#a2702a", "longdashdot", "x"),
    baselines.ARGMAX: Style("#0f8f9b", "dashdot", "cross"),
    baselines.ALIGNED: Style("#8a6bd1", "dashdot", "circle-open"),
    baselines.ALIGNED_DEFAULT_FLAGS: Style("#8a6bd1", "dot", "square-open"),
    baselines.ALIGNED_OWN_FLAGS: Style("#8a6bd1", "longdash", "diamond-open"),
    baselines.START: Style("#a2702a", "dash", "hexagon-open"),
    baselines.STOCK: Style("#2f7fc4", "solid", "pentagon", 2.0),
    baselines.ORACLE: Style("#7d8288", "dot", "star-open"),
    baselines.TUNED: Style("#d9580d", "solid", "circle", 3.0),
}
FIXED = Style("#7d8288", "dot", "circle-open", 1.0)
FIXED_NAMES = {baselines.fixed_name(gamma): str(gamma) for gamma in range(1, MAX_GAMMA + 1)}
# Octaves between neighbouring arms drawn side by side.
APART = 0.06
# Styles of lines that are not arms.
SERIES = tuple(
    STYLES[arm]
    for arm in (
        baselines.TUNED,
        baselines.PLAIN,
        baselines.TUNED_FLAGS,
        baselines.ALIGNED,
        baselines.STATIC,
        baselines.GREEDY,
    )
)


def drawing(x_title: str, y_title: str, height: int = 520) -> go.Figure:
    """An empty chart. Text and grid take the page's colours from its style sheet."""
    axis = {"showline": False, "zeroline": False, "ticks": "", "automargin": True}
    return go.Figure(
        layout=go.Layout(
            template=None,
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            height=height,
            margin={"l": 8, "r": 8, "t": 36, "b": 8},
            font={"family": "system-ui, sans-serif", "size": 13, "color": "#7d8288"},
            # A drag would block scrolling on a touch screen; the tool bar still offers zoom.
            dragmode=False,
            hoverlabel={"bgcolor": "#1f2429", "bordercolor": "#7d8288", "font": {"color": "#ffffff"}, "namelength": -1},
            modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#7d8288", "activecolor": "#d9580d"},
            legend={
                "orientation": "h",
                "x": 0,
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
            },
            xaxis=axis | {"title": {"text": _text(x_title), "standoff": 12}},
            yaxis=axis | {"title": {"text": _text(y_title), "standoff": 12}},
        )
    )


def doubling(figure: go.Figure, values: Sequence[float]) -> None:
    """A logarithmic x axis with ticks at ``values``."""
    figure.update_xaxes(type="log", tickvals=list(values), ticktext=[f"{value:g}" for value in values])


def line(
    figure: go.Figure,
    name: str,
    style: Style,
    x: Iterable[float],
    y: Iterable[float],
    *,
    low: Iterable[float] = (),
    high: Iterable[float] = (),
    symbols: int = 0,
    **more: Any,
) -> None:
    """Add a line with markers; ``more`` goes to Plotly's scatter trace.

    Args:
        low, high: Ends of an interval around each ``y``, where there are intervals.
        symbols: The most markers to draw; 0 draws all.
    """
    y, low, high = list(y), list(low), list(high)
    if low:
        more["error_y"] = {
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "width": 3,
            "array": [end - middle for end, middle in zip(high, y, strict=True)],
            "arrayminus": [middle - end for end, middle in zip(low, y, strict=True)],
        }
    # Plotly reads a subset of HTML in names.
    figure.add_scatter(
        x=list(x),
        y=y,
        name=_text(name),
        line={"color": style.colour, "dash": style.dash, "width": style.width},
        marker={
            "symbol": style.symbol,
            "size": 8,
            "color": style.colour,
            "maxdisplayed": symbols,
            "line": {"color": style.colour, "width": 1.5},
        },
        **({"mode": "lines+markers"} | more),
    )


def styles(names: Sequence[str]) -> list[Style]:
    """The style of each name: those of the arms if all are arms, else 24 styles in turn."""
    if all(name in STYLES for name in names):
        return [STYLES[name] for name in names]
    return [_series(place) for place in range(len(names))]


def _series(place: int) -> Style:
    cycle, place = divmod(place, len(SERIES))
    style = SERIES[place]
    base = style.symbol.removesuffix("-open")
    symbol = base if (base == style.symbol) == (cycle % 2 == 0) else f"{base}-open"
    return style._replace(symbol=f"{symbol}-dot" if cycle % 4 > 1 else symbol)


def reference(figure: go.Figure, name: str, x: Sequence[float], y: Sequence[float], **more: Any) -> None:
    """Add a thin reference line: the diagonal of equal values, an SLO."""
    line(figure, name, FIXED, x, y, **({"mode": "lines", "hoverinfo": "skip"} | more))


def panels(figure: go.Figure, *titles: str) -> list[str]:
    """Split a chart into stacked panels with one x axis; return the names of their y axes, top down."""
    # Fractions of the chart's height; a title stands in the gap above its panel.
    each, gap = 1 / len(titles), 36 / (figure.layout.height - 120)
    axis = figure.layout.yaxis.to_plotly_json()
    names, notes = [], []
    for place, title in enumerate(titles):
        number = "" if place == 0 else str(place + 1)
        top = 1 - place * each - gap
        figure.update_layout({f"yaxis{number}": axis | {"domain": [max(0.0, 1 - (place + 1) * each), top]}})
        names.append(f"y{number}")
        notes.append(
            {"text": f"<b>{_text(title)}</b>", "x": 0, "y": top, "xref": "paper", "yref": "paper", "showarrow": False}
            | {"xanchor": "left", "yanchor": "bottom"}
        )
    figure.update_layout(xaxis={"anchor": names[-1]}, annotations=notes)
    return names


def arm_lines(
    figure: go.Figure,
    table: pd.DataFrame,
    x: str,
    y: str,
    low: str = "",
    high: str = "",
    *,
    axis: str = "y",
    side_by_side: bool = False,
) -> None:
    """Add a line per arm; fixed lengths are one thin group, each labelled with its length.

    Args:
        table: Columns arm, load, and those that ``x``, ``y`` and, for intervals, ``low`` and ``high`` name.
        axis: The y axis to draw on.
        side_by_side: On a logarithmic x axis, move overlapping arms apart.
    """
    named = [arm for arm in table["arm"].unique() if arm not in FIXED_NAMES]
    known = {trace.legendgroup for trace in figure.data}
    for arm, part in table.groupby("arm", sort=False):
        name = str(arm)
        fixed = name in FIXED_NAMES
        label = "fixed lengths" if fixed else name
        at = part[x]
        more: dict[str, Any] = {"legendgroup": label, "showlegend": label not in known, "yaxis": axis}
        known.add(label)
        if fixed:
            more |= {"mode": "lines+text", "text": [FIXED_NAMES[name]] + [""] * (len(part) - 1)}
            more |= {"textposition": "middle left", "textfont": {"size": 11}}
        if side_by_side:
            place = -1 if fixed else named.index(name)
            at = at * 2 ** (APART * (place - (len(named) - 1) / 2))
        if low and not fixed:
            more |= {"low": part[low], "high": part[high]}
        more |= {
            "customdata": list(part["load"]),
            "hovertemplate": f"{_text(label)}, %{{customdata:g}}: %{{y:.4g}}<extra></extra>",
        }
        line(figure, label, FIXED if fixed else STYLES.get(name, SERIES[0]), at, part[y], **more)


def _text(text: str) -> str:
    """Text escaped for Plotly, which interprets tags and entities but no quotes."""
    return escape(text, quote=False)
