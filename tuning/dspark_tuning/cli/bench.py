"""``dspark bench``: what the project promises, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import DEFAULT_SCENARIO, Json, Seed, Workers, check_writable, console, cpus, print_json

app = typer.Typer(help="Measure the simulator, the tuned policy's gain, and the live decision.", no_args_is_help=True)


@app.command()
def simulator(
    as_json: Json = False,
    scale: Annotated[
        float, typer.Option("--scale", min=0.001, max=1000, help="Multiplies the requests of every case.")
    ] = 1.0,
) -> None:
    """Measure speed and memory of the simulator on the packaged default scenario, one process, compiled."""
    from dspark_tuning.measuring.bench import simulator as bench
    from dspark_tuning.reporting import tables

    found = bench.run(scale)
    if as_json:
        print_json(found)
    else:
        out = console()
        out.print(tables.simulator_bench(found))
        out.print(tables.decisions(found))
        out.print(f"First result of `dspark simulate` after {found['first_result_s']:.2f} s.")
        out.print(f"`dspark --help` after {found['help_s']:.2f} s.")


@app.command()
def policy(
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates of each search.")] = 128,
    replications: Annotated[
        int, typer.Option("--replications", min=6, help="Seeds of a closed loop's report; a knee has 0.6 of them.")
    ] = 20,
    workers: Workers = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Keeps the trials, to continue from.")] = Path(
        "out/bench"
    ),
    as_json: Json = False,
) -> None:
    """Tune packaged scenarios, as open and as closed loops, and compare the policies with what engines do today."""
    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.measuring.bench import policy as bench
    from dspark_tuning.reporting import tables
    from dspark_tuning.search.evaluation import executor

    check_writable(out)
    with executor(workers or cpus()) as pool, Bar() as bar:
        found = bench.run(out, trials, replications, seed, pool, bar)
    if as_json:
        print_json(found)
        return
    for name, part in {DEFAULT_SCENARIO: found, **found["scenarios"]}.items():
        console().print(f"{name}, open loop: the highest rate at which 95 % of the requests meet their service levels")
        console().print(tables.knees(part["knee"]))
        console().print(tables.goodput_around_the_knee(part["knee"]))
        console().print(f"{name}, closed loop")
        console().print(tables.policy_bench(part["closed"]))
        console().print(tables.policy_bench_by_load(part["closed"]))
        console().print(part["closed"]["advice"])


@app.command()
def planner(as_json: Json = False) -> None:
    """Time a step's budget decision, ours and SGLang's own, in this process; and what recording a step costs."""
    from sglang_dspark.errors import InputError

    try:
        from sglang_dspark import cpu_engine
        from sglang_dspark.serving.evidence import planner_bench
    except ImportError as error:
        raise InputError(
            f"sglang: not installed ({error}); pip install 'sglang-dspark[serve]', or see Makefile"
        ) from error
    # Only host code is timed: SGLang need not find a GPU for it.
    cpu_engine.prepare(("--device", "cpu"))
    found = planner_bench.run()
    if as_json:
        print_json(found)
    else:
        from dspark_tuning.reporting import tables

        console().print(tables.planner_bench(found))
