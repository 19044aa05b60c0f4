"""``dspark trace``: traces of requests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import DEFAULT_SCENARIO, Json, print_json, print_text
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

app = typer.Typer(help="Traces of requests: describe, shorten, fit a workload.", no_args_is_help=True)


@app.command()
@takes_trace
def describe(trace: TraceChoice, as_json: Json = False) -> None:
    """Say what a trace holds: requests, rate, burstiness, lengths, prefix hits, classes."""
    from dspark_tuning.measuring.traces.statistics import figures
    from dspark_tuning.reporting import traces

    rows = trace.rows()
    if as_json:
        print_json({"file": trace.path, "description": rows.description, **figures(rows)._asdict()})
    else:
        print_text(rows.description, *traces.tables(figures(rows)))


@app.command()
@takes_trace
def sample(
    trace: TraceChoice,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The trace to write.", show_default=False)],
    requests: Annotated[int, typer.Option("--requests", min=3, help="Requests to keep.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the places that are considered.")] = 0,
    as_json: Json = False,
) -> None:
    """Write successive requests of a trace that are as bursty as the whole.

    Taking every n-th request, or each with a probability, would make arrivals more regular and lose the reuse of
    prefixes; successive requests keep both. The best of 256 places is taken.
    """
    from dspark_tuning.measuring.traces.sample import dumps, window
    from dspark_tuning.measuring.traces.statistics import figures
    from dspark_tuning.reporting import traces
    from sglang_dspark.files import write_atomically

    rows = trace.rows()
    place = window(rows, requests, seed)
    write_atomically(out, dumps(rows, place))
    kept = TraceChoice(out, {}).rows()
    if as_json:
        sizes = {"whole": figures(rows)._asdict(), "sample": figures(kept)._asdict()}
        print_json({"file": out, "first": place.start, "requests": requests, "seed": seed, **sizes})
    else:
        print_text(rows.description, traces.compared(figures(rows), figures(kept)), f"wrote {out}")


@app.command()
@takes_trace
def fit(
    trace: TraceChoice,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the YAML there.")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="Acceptance domain of the texts.")] = None,
    ttft: Annotated[float | None, typer.Option("--ttft", help="SLO of the time to the first token, seconds.")] = None,
    tpot: Annotated[float | None, typer.Option("--tpot", help="SLO of the time per output token, seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Write the workload of a scenario that has a trace's rate, burstiness, lengths and classes.

    A trace says nothing of SLOs and acceptance domains: give --domain, --ttft and --tpot, or mend them in the file.
    """
    import yaml

    from dspark_simulator.scenario import load
    from dspark_simulator.workloads import Slo
    from dspark_tuning.measuring.traces.fit import Stated, workload_yaml
    from sglang_dspark.errors import InputError
    from sglang_dspark.files import write_atomically

    for option, value in (("--ttft", ttft), ("--tpot", tpot)):
        if value is not None and not value > 0:
            raise InputError(f"{option}: {value} is not valid; give seconds above 0")
    klass = load(DEFAULT_SCENARIO).workload.classes[0]
    stated = None not in (domain, ttft, tpot)
    slo = Slo(ttft_s=ttft or klass.slo.ttft_s, tpot_s=tpot or klass.slo.tpot_s)
    source = "as given" if stated else f"where not given as in {DEFAULT_SCENARIO}; set them"
    text = workload_yaml(trace.rows(), Stated(domain or klass.domain, slo, source))
    if out is not None:
        write_atomically(out, text)
        print(f"wrote {out}", file=sys.stderr)
    if as_json:
        print_json(yaml.safe_load(text))
    elif out is None:
        print(text, end="")
