"""Tables of scenarios and of the results of single runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from dspark_tuning.reporting.numbers import NONE, NOT_STEADY, milliseconds, number, percent, steady
from dspark_tuning.reporting.table import Table, Words

if TYPE_CHECKING:
    from dspark_simulator.result import Result


def scenarios(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Scenarios with model, hardware, engine and traffic."""
    columns = ("name", "model", "hardware", "engine", "traffic")
    return Table(
        "Packaged scenarios",
        ["Scenario", *(Words(name.capitalize()) for name in (*columns[1:], "loads"))],
        [[*(row[key] for key in columns), ", ".join(f"{load:g}" for load in row["loads"])] for row in rows],
    )


def latencies(result: Result) -> Table:
    """Attainment, goodput and latencies of a run's measured requests, overall and by class."""
    everyone = ("all", result.requests, result.attainment, result.goodput_per_s, result.ttft, result.tpot, result.itl)
    rows = [
        [
            name,
            str(requests),
            percent(attainment),
            steady(number(goodput), result.saturated),
            *(steady(milliseconds(part.p50_s, part.p90_s, part.p99_s), result.saturated) for part in parts),
        ]
        for name, requests, attainment, goodput, *parts in (
            everyone,
            *((c.name, c.requests, c.attainment, c.goodput_per_s, c.ttft, c.tpot, c.itl) for c in result.classes),
        )
    ]
    times = [f"{name} ms, p50 / p90 / p99" for name in ("TTFT", "TPOT", "ITL")]
    return Table(
        "Requests; attainment is the share within their SLOs",
        ["Class", "Requests", "Attainment", "Goodput 1/s", *times],
        rows,
    )


def server(result: Result) -> Table:
    """The server in the measuring window of a run."""
    values = {
        "Throughput, tokens/s": number(result.throughput_tok_s),
        "Accepted length, tokens a round": number(result.accepted_length),
        "Verify length, drafts a round": number(result.verify_length),
        "Running requests": number(result.running),
        "Queued requests": number(result.queued),
        "Utilisation": percent(result.utilisation),
        "KV pool in use": percent(result.kv_use),
        "Steps": str(result.steps),
        "Mean step, ms": f"{1e3 * result.mean_step_s:.2f}",
        "Eager steps": str(result.eager_steps),
        "Retracted requests": str(result.retracted),
        "Aborted requests": str(result.aborted),
        "Unfinished requests": str(result.unfinished),
        "Window, simulated s": number(result.window_s),
    }
    return Table("Server", ["Value", "Mean"], [list(item) for item in values.items()])


def two_runs(names: Sequence[str], results: Sequence[Result]) -> Table:
    """Two runs side by side, and the second over the first; values that a saturated run has not are left out."""
    fields = {
        "Output tokens/s": ("throughput_tok_s", 1.0),
        "Within SLOs, %": ("attainment", 100.0),
        "Goodput, requests/s within SLOs": ("goodput_per_s", 1.0),
        **{
            f"{kind.upper()} {at}, ms": (f"{kind}.{at}_s", 1e3)
            for kind in ("ttft", "tpot", "itl")
            for at in ("p50", "p90", "p99")
        },
        "Accepted length, tokens a round": ("accepted_length", 1.0),
        "Verify length, drafts": ("verify_length", 1.0),
        "Running requests": ("running", 1.0),
        "Waiting requests": ("queued", 1.0),
        "KV pool in use, %": ("kv_use", 100.0),
    }
    rows = []
    for title, (field, unit) in fields.items():
        unsteady = field == "goodput_per_s" or "." in field
        values = [None if one.saturated and unsteady else unit * float(attrgetter(field)(one)) for one in results]
        shown = [NOT_STEADY if value is None else number(value) for value in values]
        rows.append([title, *shown, _over(values[1], values[0])])
    return Table("Results", ["", *names, "B \N{DIVISION SIGN} A"], rows)


def _over(value: float | None, base: float | None) -> str:
    ratio = NONE if value is None or not base else f"{value / base:.3f}"
    return NONE if ratio in ("nan", "inf") else ratio
