"""``dspark simulate``: one run of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspark_tuning.cli.common import (
    DEFAULT_SCENARIO,
    AcceptanceFile,
    Domain,
    Json,
    ProfileFile,
    ScenarioName,
    Seed,
    TraceFile,
    console,
    print_json,
    read_scenario,
)

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario


def simulate(
    scenario: ScenarioName = DEFAULT_SCENARIO,
    load: Annotated[
        float | None, typer.Option("--load", help="Clients of a closed loop, or factor on the rate of an open one.")
    ] = None,
    trace: TraceFile = None,
    profile: ProfileFile = None,
    acceptance: AcceptanceFile = None,
    domain: Domain = None,
    seed: Seed = 0,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Requests to measure, after the warm-up.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy.json: its policy, belief and server flags.")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option("--arm", help="plain, default, fixed-N, static-THETA, greedy, argmax, aligned or oracle."),
    ] = None,
    steps: Annotated[Path | None, typer.Option("--steps", help="Write every engine step to this Parquet file.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a scenario once: latencies, throughput and goodput, by class and overall."""
    from dspark_simulator.simulation import StepLog
    from dspark_simulator.simulation import simulate as run
    from dspark_tuning.reporting import tables
    from dspark_tuning.search import named_arms
    from dspark_tuning.search.summary import saturation
    from sglang_dspark.errors import InputError

    if policy is not None and arm is not None:
        raise InputError(f"--arm: {arm!r} given together with --policy {policy}; give one of the two")
    chosen = read_scenario(scenario, trace, () if load is None else (load,), profile, acceptance, domain)
    if load is not None:
        chosen = chosen.at_load(load)
    chosen = of_length(chosen, requests)
    serving = named_arms.named(arm or "default", chosen) if policy is None else named_arms.tuned(policy, chosen)
    log: list[StepLog] | None = None if steps is None else []
    result = run(chosen, serving, seed=seed, log=log)
    if steps is not None:
        import pandas as pd

        from sglang_dspark.files import write_atomically

        write_atomically(steps, pd.DataFrame(log, columns=StepLog._fields).to_parquet(index=False))
    if as_json:
        truth = chosen.live.centre()
        print_json({"scenario": chosen.name, "arm": serving.name, "seed": seed, "truth": truth, "result": result})
    else:
        out = console()
        out.print(f"{chosen.name}: {serving.name}, seed {seed}")
        out.print(tables.latencies(result))
        out.print(tables.figures(result))
        if extrapolated := chosen.extrapolated(serving.server):
            out.print(extrapolated)
        if result.saturated:
            out.print(saturation(result.backlog_growth))


def of_length(scenario: Scenario, requests: int | None) -> Scenario:
    """With ``requests`` measured ones, behind the warm-up that the load needs."""
    run = scenario.run
    if requests is not None:
        run = run.model_copy(update={"requests": run.warmup_requests + requests})
    return scenario.model_copy(update={"run": run}).warmed()
