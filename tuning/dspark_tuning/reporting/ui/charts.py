"""Table and charts of two runs, as elements of the interactive page."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from dash import html

from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting import distributions, timelines, traced
from dspark_tuning.reporting.results import two_runs
from dspark_tuning.reporting.table import Table, cell_text
from dspark_tuning.search.summary import saturation
from dspark_tuning.search.traced_run import TracedResult

Named = Sequence[tuple[str, TracedResult]]


def over_time(runs: Named) -> go.Figure:
    """Load, queue, verify length and KV of both runs."""
    return timelines.draw([(name, run.timeline) for name, run in runs])


def latencies(scenario: Scenario, runs: Named) -> go.Figure:
    """Cumulative distributions of the latencies of both runs."""
    return distributions.draw(traced.by_kind({name: run.latencies for name, run in runs}), traced.levels_s(scenario))


def results(runs: Named) -> html.Div:
    """The results of both runs, the second over the first, and a note for each saturated run."""
    notes = [
        html.P(f"{name} is {saturation(run.result.backlog_growth)}.", className="note")
        for name, run in runs
        if run.result.saturated
    ]
    table = two_runs([name for name, _ in runs], [run.result for _, run in runs])
    return html.Div([dash_table(table), *notes])


def dash_table(table: Table) -> html.Table:
    """A table as an element of the page."""
    header = html.Tr([html.Th(name, scope="col") for name in table.columns])
    body = [
        html.Tr([html.Th(cell_text(first), scope="row"), *(html.Td(cell_text(cell)) for cell in cells)])
        for first, *cells in table.rows
    ]
    return html.Table([html.Thead(header), html.Tbody(body)])
