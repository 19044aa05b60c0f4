"""``dspark tune``: tune a policy for a scenario."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dspark_tuning.cli.common import (
    AcceptanceFile,
    Dask,
    Domain,
    Json,
    ProfileFile,
    ScenarioName,
    Seed,
    Workers,
    check_writable,
    cpus,
    print_json,
    print_text,
    read_scenario,
)
from dspark_tuning.cli.deployment_options import DeploymentOptions, with_deployment_options
from dspark_tuning.cli.remarks import warn
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario
    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.search.tune import Outcome

# 128 + SIGINT, as a shell reports it.
INTERRUPTED = 130


@with_deployment_options
@takes_trace
def tune(
    options: DeploymentOptions,
    scenario: ScenarioName = None,
    trace: TraceChoice | None = None,
    profile: ProfileFile = None,
    acceptance: AcceptanceFile = None,
    domain: Domain = None,
    objective: Annotated[
        Literal["throughput", "goodput", "tpot", "front"] | None,
        typer.Option(
            "--objective",
            help="What to maximise; tpot minimises the mean, front weighs it with throughput, both among policies with "
            "95 % of the requests within their TTFT. "
            "\\[default: throughput of a closed loop, goodput at the rate of an open one]",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Policies that the search tries, rounded up to batches of 16.")
    ] = 320,
    replications: Annotated[
        int, typer.Option("--replications", min=6, help="Seeds of the report, each with its own requests and truth.")
    ] = 20,
    workers: Workers = None,
    dask: Dask = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Optuna storage. \\[default: a journal in --out]"),
    ] = None,
    seed: Seed = 0,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="NAME=VALUE", help="Fix a parameter instead of searching it.")
    ] = None,
    load: Annotated[
        list[float] | None, typer.Option("--load", help="Tune for this load instead of the scenario's; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("out"),
    as_json: Json = False,
) -> None:
    """Search a policy and server flags; compare them with every baseline; write policy.json.

    The baselines are arms: policies with their server flags. An interrupted search continues with the same command.
    """
    chosen = read_scenario(scenario, trace, load or (), profile, acceptance, domain, options)
    warn(chosen, scenario or chosen.name)
    pins = dict(_pin(text) for text in pin or ())

    from dspark_tuning.cli import progress
    from dspark_tuning.reporting.tuning import files
    from dspark_tuning.search.evaluation import executor
    from dspark_tuning.search.objectives import default_objective
    from dspark_tuning.search.search import stored_trials
    from dspark_tuning.search.space import Space
    from dspark_tuning.search.tune import Options
    from dspark_tuning.search.tune import tune as run

    # Errors are reported before anything is simulated or written.
    Space(chosen, pins)
    check_writable(out)
    settings = Options(
        out,
        objective or default_objective(chosen),
        trials,
        replications=replications,
        seed=seed,
        storage=storage,
        pins=pins,
    )
    bar = progress.of_tuning(chosen, settings)
    try:
        with executor(workers or cpus(), dask) as pool, bar:
            _first(chosen, bar)
            outcome = run(chosen, settings, pool, bar)
        written = files.write(outcome, out)
    except KeyboardInterrupt:
        from dspark_tuning.reporting.tuning.provenance import without_secrets

        place = without_secrets(storage) if storage else out
        kept = f"{stored_trials(storage, out)} trials are kept in {place}"
        print(f"dspark: interrupted: {kept}; the same command continues", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(_as_json(outcome, written))
    else:
        _print(outcome, written)


def _first(scenario: Scenario, bar: Bar) -> None:
    """Simulate once, so that worker processes find the engine compiled and an invalid scenario fails here."""
    from dspark_tuning.search import baselines
    from dspark_tuning.search.evaluation import Cell, measure
    from dspark_tuning.search.tune import Stage

    bar(Stage("compile (the first run only)", 1, 0))
    measure(scenario, Cell(baselines.default(scenario), scenario.loads[0], seed=0))


def _pin(text: str) -> tuple[str, Any]:
    from sglang_dspark.errors import InputError

    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--pin: {text!r} has no value; write NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _print(outcome: Outcome, files: list[Path]) -> None:
    from dspark_tuning.reporting.deployment import rests_on
    from dspark_tuning.reporting.tuning import answer, baselines
    from dspark_tuning.search import launch_command, summary

    scenario = outcome.scenario
    loads = ", ".join(f"{load:g}" for load in scenario.loads)
    print_text(
        f"Launch command of an unmodified SGLang; {launch_command.SPS_TABLE} is its cost table, {launch_command.STS} "
        "holds the temperatures of the drafter's confidences:",
        launch_command.command(scenario, outcome.stock, outcome.options.folder),
        answer.gains(outcome),
        baselines.arms(outcome),
        f"Loads {loads}, {outcome.options.replications} replications each, on requests and live step times that the "
        "search never saw. Percentiles are the mean of each simulation's own.",
        rests_on(scenario),
    )
    largest = scenario.at_load(max(scenario.loads))
    if extrapolated := largest.extrapolated(outcome.winner.server):
        print_text(f"Load {max(scenario.loads):g} is {extrapolated}.")
    print_text(
        *summary.remarks(outcome.rows, outcome.options.objective),
        outcome.artifact.advice,
        f"Wrote {', '.join(map(str, files))}.",
    )


def _as_json(outcome: Outcome, files: list[Path]) -> dict[str, Any]:
    from dspark_tuning.reporting.deployment import rests_on
    from dspark_tuning.search import launch_command, server_flags, summary

    return {
        "scenario": outcome.scenario.name,
        "rests_on": rests_on(outcome.scenario),
        "objective": outcome.options.objective,
        "loads": outcome.scenario.loads,
        "replications": outcome.options.replications,
        "trials": len(outcome.trials),
        "winner": outcome.winner.name,
        "advice": outcome.artifact.advice,
        "arms": summary.summaries(outcome),
        "stock": {
            "launch": launch_command.command(outcome.scenario, outcome.stock, outcome.options.folder),
            "flags": server_flags.flags(outcome.stock.server),
            "environment": server_flags.environment(outcome.stock.server),
            "sps_table": outcome.options.folder / launch_command.SPS_TABLE,
        },
        "split": summary.split(outcome),
        "by_load": outcome.versus.to_dict("records"),
        "files": files,
    }
