"""Options that several commands share, what they choose, and how commands print."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.reporting.jsonable import jsonable

if TYPE_CHECKING:
    from rich.console import Console

    from dspark_simulator.scenario import Scenario

DEFAULT_SCENARIO = "b300-v4flash"

# Wide enough for every table, where nobody's window limits it.
PIPE_WIDTH = 150

ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A packaged scenario (`dspark scenario list`) or a YAML file.")
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="CSV of requests (TIMESTAMP, ContextTokens, GeneratedTokens) to replay instead."),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="A profile.json of `dspark calibrate`: the scenario's traffic on what it describes.",
    ),
]
AcceptanceFile = Annotated[
    Path | None,
    typer.Option("--acceptance", metavar="FILE", help="An acceptance.yaml of `dspark eval`: the scenario's drafter."),
]
Domain = Annotated[
    str | None,
    typer.Option("--domain", help="What all requests ask for, of the domains of --acceptance. [default: as they are]"),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: torch's choice]")]
Device = Annotated[str, typer.Option("--device", help="As torch names it: cpu, cuda, cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines and nothing else on stdout.")]
# Seeds are multiplied on their way into 64-bit counters.
Seed = Annotated[int, typer.Option("--seed", min=0, max=4000, help="Names the requests, acceptances and truths.")]
Url = Annotated[str, typer.Option("--url", help="The server's address, as http://host:30000.", show_default=False)]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="DSPARK_API_KEY", help="The server's key, if it asks for one.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a CPU.")]
Dask = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Simulate on the cluster of this dask scheduler.")
]


def read_scenario(
    source: str,
    trace: Path | None,
    loads: Iterable[float] = (),
    profile: Path | None = None,
    acceptance: Path | None = None,
    domain: str | None = None,
) -> Scenario:
    """The scenario that the options name, with the loads, deployment and drafter that they give in place of its own.

    Raises:
        InputError: The scenario or a file cannot be used, or a load that the scenario cannot have.
    """
    from dspark_simulator.scenario import load

    scenario = load(source)
    if profile is not None:
        scenario = scenario.with_profile(profile)
    if acceptance is not None:
        scenario = scenario.with_acceptance(acceptance, domain)
    elif domain is not None:
        from sglang_dspark.errors import InputError

        raise InputError(f"--domain: {domain!r} is given without --acceptance; give both")
    if trace is not None:
        scenario = scenario.with_trace(trace)
    chosen = tuple(_valid_load(scenario, load) for load in loads)
    return scenario.model_copy(update={"loads": chosen}) if chosen else scenario


def _valid_load(scenario: Scenario, load: float) -> float:
    from sglang_dspark.errors import InputError

    if not 0 < load < math.inf:
        raise InputError(f"--load: {load} is not valid; give a number above 0")
    if scenario.workload.clients is not None and load != math.floor(load):
        raise InputError(f"--load: {load} is not valid; this is a closed loop, give a whole number of clients")
    return load


def check_writable(folder: Path) -> None:
    """Refuses a folder that could not be written at the end, before any time is spent; creates nothing.

    Raises:
        InputError: It is a file, or it or the folder that it would be made in is not writable.
    """
    from sglang_dspark.errors import InputError

    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out: {folder}: cannot be written; choose another folder")


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_torch(threads: int | None) -> None:
    """Imports PyTorch, with huge pages for large tensors: page by page, clearing them takes longer than filling them.

    Nothing may have been allocated before.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def console() -> Console:
    """Prints what people read, values as they are: file names may hold what Rich takes for markup."""
    from rich.console import Console

    out = Console(markup=False, highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, PIPE_WIDTH)
    return out


def print_json(value: Any) -> None:
    """Prints ``value`` as JSON: NaN and infinities as null, named tuples as objects, NumPy numbers as numbers."""
    print(json.dumps(jsonable(value), indent=1, allow_nan=False))
