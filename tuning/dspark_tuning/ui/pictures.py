"""What the page shows of two runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from dash import html

from dspark_simulator.scenario import Scenario
from dspark_tuning.report import distributions, timelines
from dspark_tuning.report.numbers import NONE, milliseconds, number
from dspark_tuning.watch import LATENCIES, Look

Named = Sequence[tuple[str, Look]]


def over_time(runs: Named) -> go.Figure:
    return timelines.draw([(name, run.timeline) for name, run in runs])


def latencies(scenario: Scenario, runs: Named) -> go.Figure:
    levels = [klass.slo for klass in scenario.workload.classes]
    return distributions.draw(
        {kind.upper(): {name: run.latencies[kind] for name, run in runs} for kind in LATENCIES},
        {"TTFT": [slo.ttft_s for slo in levels], "TPOT": [slo.tpot_s for slo in levels]},
    )


def figures(runs: Named) -> html.Table:
    """The figures of both runs, and the second over the first."""
    first, second = (run.result for _, run in runs)
    rows = [
        ("Output tokens/s", first.throughput_tok_s, second.throughput_tok_s, number),
        ("Goodput, requests/s within SLOs", first.goodput_per_s, second.goodput_per_s, number),
        ("Within SLOs, %", 100 * first.attainment, 100 * second.attainment, number),
        *(
            (
                f"{kind.upper()} {at}, ms",
                *(getattr(getattr(one, kind), f"{at}_s") for one in (first, second)),
                milliseconds,
            )
            for kind in LATENCIES
            for at in ("p50", "p90", "p99")
        ),
        ("Accepted length, tokens a round", first.accepted_length, second.accepted_length, number),
        ("Verify length, drafts", first.verify_length, second.verify_length, number),
        ("Running requests", first.running, second.running, number),
        ("Waiting requests", first.queued, second.queued, number),
        ("KV pool in use, %", 100 * first.kv_use, 100 * second.kv_use, number),
    ]
    header = html.Tr([html.Th(text, scope="col") for text in ("", *(name for name, _ in runs), "B ÷ A")])
    body = [
        html.Tr([html.Th(title, scope="row"), html.Td(show(one)), html.Td(show(other)), html.Td(_over(other, one))])
        for title, one, other, show in rows
    ]
    return html.Table([html.Thead(header), html.Tbody(body)])


def _over(value: float, base: float) -> str:
    return f"{value / base:.3f}" if base > 0 and math.isfinite(value) else NONE
