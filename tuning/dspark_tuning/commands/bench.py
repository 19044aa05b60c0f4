"""``dspark bench``: what the project promises, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.commands.common import DEFAULT_SCENARIO, Json, Seed, Workers, console, cpus, print_json

app = typer.Typer(help="Measure the simulator, the tuned policy's gain, and the live decision.", no_args_is_help=True)


@app.command()
def simulator(
    as_json: Json = False,
    scale: Annotated[
        float, typer.Option("--scale", min=0.001, max=1000, help="Multiplies the requests of every case.")
    ] = 1.0,
) -> None:
    """Measure speed and memory of the simulator on the packaged default scenario, one process, compiled."""
    from dspark_tuning import tables
    from dspark_tuning.bench import simulator as bench

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
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates of the search.")] = 320,
    replications: Annotated[int, typer.Option("--replications", min=6, help="Seeds of the report.")] = 20,
    workers: Workers = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Keeps the trials, to continue from.")] = Path(
        "out/bench"
    ),
    as_json: Json = False,
) -> None:
    """Tune the packaged default scenario and compare the policy with what engines do today, load by load."""
    from dspark_simulator.scenario import load
    from dspark_tuning import outputs, progress, tables
    from dspark_tuning.bench import policy as bench
    from dspark_tuning.evaluate import executor
    from dspark_tuning.tune import Options

    outputs.check_writable(out)
    bar = progress.of_tuning(load(DEFAULT_SCENARIO), Options(out, trials=trials, replications=replications))
    with executor(workers or cpus()) as pool, bar:
        found = bench.run(out, trials, replications, seed, pool, bar)
    if as_json:
        print_json(found)
    else:
        console().print(tables.policy_bench(found))
        console().print(tables.policy_bench_by_load(found))
        console().print(found["advice"])


@app.command()
def planner(as_json: Json = False) -> None:
    """Time a step's budget decision, ours and SGLang's own, in this process; and what recording a step costs."""
    from sglang_dspark.errors import InputError

    try:
        from sglang_dspark.serving import bench, cpu
    except ImportError as error:
        raise InputError(
            f"sglang: not installed ({error}); pip install 'sglang-dspark[serve]', or see Makefile"
        ) from error
    # Only host code is timed: SGLang need not find a GPU for it.
    cpu.prepare(("--device", "cpu"))
    found = bench.run()
    if as_json:
        print_json(found)
    else:
        from dspark_tuning import tables

        console().print(tables.planner_bench(found))
