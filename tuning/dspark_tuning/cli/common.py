"""Options shared by several commands, the scenario they select, and printing."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.reporting.jsonable import jsonable

if TYPE_CHECKING:
    from rich.console import Console

    from dspark_simulator.scenario import Scenario
    from dspark_simulator.workloads import Workload
    from dspark_tuning.cli.deployment_options import DeploymentOptions
    from dspark_tuning.cli.trace_options import TraceChoice
    from dspark_tuning.reporting.table import Table

DEFAULT_SCENARIO = "b300-v4flash"

# Columns of a pipe or file, where no window limits the width.
PIPE_WIDTH = 150

ScenarioName = Annotated[
    str | None,
    typer.Argument(
        metavar="SCENARIO",
        help="A packaged scenario (`dspark scenario list`) or a YAML file: a deployment and its traffic. "
        f"\\[default: {DEFAULT_SCENARIO}]",
        show_default=False,
    ),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="A profile.json of `dspark calibrate`: run the scenario's traffic on the recorded deployment.",
    ),
]
AcceptanceFile = Annotated[
    Path | None,
    typer.Option("--acceptance", metavar="FILE", help="An acceptance.yaml of `dspark eval`: the scenario's drafter."),
]
Domain = Annotated[
    str | None,
    typer.Option(
        "--domain",
        help="The domain that all requests belong to: of --acceptance \\[default: each class its own], or of a model's "
        "requests \\[default: mt-bench].",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. \\[default: torch's choice]")]
Device = Annotated[str, typer.Option("--device", help="A torch device: cpu, cuda, cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines and nothing else on stdout.")]
# Seeds are multiplied on their way into 64-bit counters.
Seed = Annotated[int, typer.Option("--seed", min=0, max=4000, help="Seed of the requests, acceptances and truths.")]
Url = Annotated[str, typer.Option("--url", help="The server's address, as http://host:30000.", show_default=False)]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="DSPARK_API_KEY", help="The server's API key, if it requires one.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a CPU.")]
Dask = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Simulate on the cluster of this dask scheduler.")
]


def read_scenario(
    source: str | None,
    trace: TraceChoice | None,
    loads: Iterable[float] = (),
    profile: Path | None = None,
    acceptance: Path | None = None,
    domain: str | None = None,
    options: DeploymentOptions | None = None,
) -> Scenario:
    """Load a scenario, or make one of a model, and replace its loads, deployment, drafter or traffic by the options.

    Raises:
        InputError: The scenario, a file or an option is not valid.
    """
    from sglang_dspark.errors import InputError

    described = options is not None and options.given
    if options is not None and described:
        if source is not None:
            raise InputError(f"--model: a model is given together with the scenario {source}; give one of the two")
        scenario = new(options, trace, domain)
    else:
        from dspark_simulator.scenario import load

        if options is not None and options.rate is not None:
            raise InputError(f"--rate: {options.rate} is given without a model; scale a scenario's rate by --load")
        scenario = load(source or DEFAULT_SCENARIO)
    if profile is not None:
        scenario = scenario.with_profile(profile)
    if acceptance is not None:
        scenario = scenario.with_acceptance(acceptance, domain)
    elif domain is not None and not described:
        raise InputError(f"--domain: {domain!r} is given without --acceptance; give both")
    if trace is not None and not described:
        scenario = trace.replayed(scenario)
    say_what_was_read(scenario.workload)
    chosen = tuple(_valid_load(scenario, load) for load in loads)
    return scenario.model_copy(update={"loads": chosen}) if chosen else scenario


def new(options: DeploymentOptions, trace: TraceChoice | None, domain: str | None) -> Scenario:
    """The scenario that the options describe.

    Raises:
        InputError: An option or a file is not valid.
    """
    from dspark_simulator.new_scenario import new_scenario

    return new_scenario(options.deployed(), options.traffic(domain, trace))


def say_what_was_read(workload: Workload) -> None:
    """Print to stderr the one line about the trace that a workload replays, if it does."""
    if line := workload.arrivals.described():
        print(line, file=sys.stderr, flush=True)


def _valid_load(scenario: Scenario, load: float) -> float:
    from sglang_dspark.errors import InputError

    if not 0 < load < math.inf:
        raise InputError(f"--load: {load} is not valid; give a number above 0")
    if scenario.workload.clients is not None and load != math.floor(load):
        raise InputError(f"--load: {load} is not valid; this is a closed loop, give a whole number of clients")
    return load


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written, before any work is done; create nothing.

    Raises:
        InputError: It is a file, or it or its nearest existing parent is not writable.
    """
    from sglang_dspark.errors import InputError

    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out: {folder}: cannot be written; choose another folder")


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_torch(threads: int | None) -> None:
    """Import PyTorch with huge pages for large tensors, which clears them faster than small pages.

    Must run before the first allocation.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def console() -> Console:
    """A console without markup: file names may contain what Rich reads as markup."""
    from rich.console import Console

    out = Console(markup=False, highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, PIPE_WIDTH)
    return out


def print_text(*parts: Table | str) -> None:
    """Print tables and sentences for a person; sentences are not wrapped."""
    out = console()
    for part in parts:
        out.print(part if isinstance(part, str) else part.rich(), soft_wrap=isinstance(part, str))


def print_json(value: Any) -> None:
    """Print ``value`` as JSON: NaN and infinities as null, named tuples as objects, NumPy numbers as numbers."""
    print(json.dumps(jsonable(value), indent=1, allow_nan=False))
