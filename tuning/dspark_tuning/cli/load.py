"""``dspark load``: send a scenario's traffic to a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspark_tuning.cli.common import (
    ApiKey,
    Json,
    ScenarioName,
    Seed,
    Url,
    print_json,
    print_text,
    read_scenario,
)
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario


@takes_trace
def load(
    scenario: ScenarioName,
    url: Url,
    load: Annotated[
        float | None, typer.Option("--load", help="Clients of a closed loop, or factor on the rate of an open one.")
    ] = None,
    trace: TraceChoice | None = None,
    seed: Seed = 0,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Requests to measure, after the warm-up.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="Texts as JSON lines with slo_class and text. \\[default: random]"
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Sampling temperature of every request.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write every request to Parquet.")] = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Send a scenario's traffic to a running server; measure TTFT, TPOT, ITL and goodput as `dspark simulate` does."""
    from dspark_tuning.cli.simulate import of_length
    from dspark_tuning.measuring.load import request_rows
    from dspark_tuning.measuring.load.drive import drive
    from dspark_tuning.measuring.load.prompts import read
    from dspark_tuning.measuring.load.result import result
    from dspark_tuning.measuring.recording.schema import check_writable
    from dspark_tuning.reporting import results
    from sglang_dspark.errors import InputError
    from sglang_dspark.sglang_client import Client

    chosen: Scenario = read_scenario(scenario, trace, () if load is None else (load,))
    if load is not None:
        chosen = chosen.at_load(load)
    chosen = of_length(chosen, requests)
    if out is not None:
        check_writable(out)
    classes = [klass.name for klass in chosen.workload.classes]
    texts = None if prompts is None else read(prompts, classes)
    loaded = drive(
        Client(url, api_key),
        chosen.workload,
        chosen.run,
        seed,
        texts,
        temperature,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    if loaded.failed and not any(request.finished for request in loaded.requests):
        raise InputError(f"{url}: every request failed, the first with {loaded.failed[0].error}; see the server's log")
    if out is not None:
        request_rows.write(out, loaded)
    measured = result(loaded)
    if as_json:
        print_json(
            {
                "scenario": chosen.name,
                "url": url,
                "seed": seed,
                "failed": len(loaded.failed),
                "cpu_s": loaded.cpu_s,
                "wall_s": loaded.wall_s,
                "late_s": loaded.late_s,
                "result": measured,
            }
        )
        return
    print_text(
        results.latencies(measured),
        results.server(measured),
        f"{len(loaded.failed)} of {len(loaded.requests)} requests failed. The clients used "
        f"{loaded.cpu_s / loaded.wall_s:.0%} of a CPU.",
    )
