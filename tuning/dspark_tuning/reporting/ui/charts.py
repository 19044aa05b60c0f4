"""What the page shows of two runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter

import plotly.graph_objects as go
from dash import html

from dspark_simulator.result import Result
from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting import distributions, timelines
from dspark_tuning.reporting.numbers import NONE, milliseconds, number
from dspark_tuning.reporting.tables import NOT_STEADY
from dspark_tuning.search.summary import saturation
from dspark_tuning.search.traced_run import LATENCIES, Look

Named = Sequence[tuple[str, Look]]


def over_time(runs: Named) -> go.Figure:
    return timelines.draw([(name, run.timeline) for name, run in runs])


def latencies(scenario: Scenario, runs: Named) -> go.Figure:
    levels = [klass.slo for klass in scenario.workload.classes]
    return distributions.draw(
        {kind.upper(): {name: run.latencies[kind] for name, run in runs} for kind in LATENCIES},
        {"TTFT": [slo.ttft_s for slo in levels], "TPOT": [slo.tpot_s for slo in levels]},
    )


def figures(runs: Named) -> html.Div:
    """The figures of both runs and the second over the first, and which of the runs is saturated."""
    results = [run.result for _, run in runs]
    steps: list[tuple[str, list[float]]] = [
        ("Accepted length, tokens a round", [one.accepted_length for one in results]),
        ("Verify length, drafts", [one.verify_length for one in results]),
        ("Running requests", [one.running for one in results]),
        ("Waiting requests", [one.queued for one in results]),
        ("KV pool in use, %", [100 * one.kv_use for one in results]),
    ]
    header = html.Tr([html.Th(text, scope="col") for text in ("", *(name for name, _ in runs), "B ÷ A")])
    body = [
        _row("Output tokens/s", [one.throughput_tok_s for one in results], number),
        _row("Within SLOs, %", [100 * one.attainment for one in results], number),
        _row("Goodput, requests/s within SLOs", _steady(results, "goodput_per_s"), number),
        *(
            _row(f"{kind.upper()} {at}, ms", _steady(results, f"{kind}.{at}_s"), milliseconds)
            for kind in LATENCIES
            for at in ("p50", "p90", "p99")
        ),
        *(_row(title, values, number) for title, values in steps),
    ]
    grown = [
        html.P(f"{name} is {saturation(run.result.backlog_growth)}.", className="note")
        for name, run in runs
        if run.result.saturated
    ]
    return html.Div([html.Table([html.Thead(header), html.Tbody(body)]), *grown])


def _steady(results: Sequence[Result], figure: str) -> list[float | None]:
    """A figure of each run; None of one that is saturated, where it depends on the length of the run."""
    return [None if one.saturated else float(attrgetter(figure)(one)) for one in results]


def _row(title: str, values: Sequence[float | None], show: Callable[[float], str]) -> html.Tr:
    first, second = values
    ratio = NONE if first is None or second is None else _over(second, first)
    shown = [NOT_STEADY if value is None else show(value) for value in values]
    return html.Tr([html.Th(title, scope="row"), *map(html.Td, (*shown, ratio))])


def _over(value: float, base: float) -> str:
    return f"{value / base:.3f}" if base > 0 and math.isfinite(value) else NONE
