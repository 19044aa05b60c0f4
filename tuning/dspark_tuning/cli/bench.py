"""``dspark bench``: speed of the simulator, gain of the tuned policy and cost of a live decision, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import DEFAULT_SCENARIO, Json, Seed, Workers, check_writable, cpus, print_json, print_text

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
    from dspark_tuning.reporting import benches

    result = bench.run(scale)
    if as_json:
        print_json(result)
    else:
        print_text(
            *benches.simulator_bench(result),
            f"First result of `dspark simulate` after {result['first_result_s']:.2f} s.",
            f"`dspark --help` after {result['help_s']:.2f} s.",
        )


@app.command()
def policy(
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates of each search.")] = 128,
    replications: Annotated[
        int, typer.Option("--replications", min=6, help="Seeds of a closed loop's report; a knee uses 0.6 of them.")
    ] = 20,
    workers: Workers = None,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the trials; a later run resumes them.")
    ] = Path("out/bench"),
    as_json: Json = False,
) -> None:
    """Tune packaged scenarios, as open and as closed loops, and compare the policies with today's engines."""
    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.measuring.bench import policy as bench
    from dspark_tuning.reporting import benches
    from dspark_tuning.search.evaluation import executor

    check_writable(out)
    with executor(workers or cpus()) as pool, Bar() as bar:
        result = bench.run(out, trials, replications, seed, pool, bar)
    if as_json:
        print_json(result)
        return
    for name, part in {DEFAULT_SCENARIO: result, **result["scenarios"]}.items():
        print_text(
            f"{name}, open loop: the knee is the highest rate at which 95 % of the requests meet their SLOs",
            *benches.knees(part["knee"]),
            f"{name}, closed loop",
            *benches.policy_bench(part["closed"]),
            part["closed"]["advice"],
        )


@app.command()
def planner(as_json: Json = False) -> None:
    """Time a step's budget decision, ours and SGLang's own, in this process, and the cost of recording a step."""
    from sglang_dspark.errors import InputError

    try:
        from sglang_dspark import cpu_engine
        from sglang_dspark.serving.evidence import planner_bench
    except ImportError as error:
        raise InputError(
            f"sglang: not installed ({error}); pip install 'sglang-dspark[serve]', or see Makefile"
        ) from error
    # Only host code is timed, so SGLang needs no GPU.
    cpu_engine.prepare(("--device", "cpu"))
    result = planner_bench.run()
    if as_json:
        print_json(result)
    else:
        from dspark_tuning.reporting import benches

        print_text(benches.planner_bench(result))
