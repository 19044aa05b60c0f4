"""``dspark simulate``: simulate a scenario once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspark_tuning.cli.common import (
    AcceptanceFile,
    Domain,
    Json,
    ProfileFile,
    ScenarioName,
    Seed,
    print_json,
    print_text,
    read_scenario,
)
from dspark_tuning.cli.deployment_options import DeploymentOptions, with_deployment_options
from dspark_tuning.cli.remarks import warn
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario


@with_deployment_options
@takes_trace
def simulate(
    options: DeploymentOptions,
    scenario: ScenarioName = None,
    load: Annotated[
        float | None, typer.Option("--load", help="Clients of a closed loop, or factor on the rate of an open one.")
    ] = None,
    trace: TraceChoice | None = None,
    profile: ProfileFile = None,
    acceptance: AcceptanceFile = None,
    domain: Domain = None,
    seed: Seed = 0,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Requests to measure, after the warm-up.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            help="A policy.json: policy, server flags and belief (the policy's own estimate of step times).",
        ),
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            "--arm",
            help="The arm, a policy with its server flags: plain, default, fixed-N, static-THETA (the least survival "
            "of a draft, the probability that it and all before it are accepted), greedy, argmax, aligned (to tiers, "
            "the step sizes captured in CUDA graphs) or oracle.",
        ),
    ] = None,
    steps: Annotated[Path | None, typer.Option("--steps", help="Write every engine step to this Parquet file.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a scenario once: latencies, throughput, goodput and attainment, by class and overall.

    Attainment is the share of requests within their SLOs, goodput the rate of such requests.
    """
    from dspark_simulator.simulation import StepLog
    from dspark_simulator.simulation import simulate as run
    from dspark_tuning.reporting import results
    from dspark_tuning.reporting.deployment import rests_on
    from dspark_tuning.search import named_arms
    from dspark_tuning.search.summary import saturation
    from sglang_dspark.errors import InputError

    if policy is not None and arm is not None:
        raise InputError(f"--arm: {arm!r} given together with --policy {policy}; give one of the two")
    chosen = read_scenario(scenario, trace, () if load is None else (load,), profile, acceptance, domain, options)
    warn(chosen, scenario or chosen.name)
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
        print_json(
            {
                "scenario": chosen.name,
                "arm": serving.name,
                "seed": seed,
                "truth": truth,
                "rests_on": rests_on(chosen),
                "result": result,
            }
        )
    else:
        print_text(
            f"{chosen.name}: {serving.name}, seed {seed}",
            rests_on(chosen),
            results.latencies(result),
            results.server(result),
        )
        if extrapolated := chosen.extrapolated(serving.server):
            print_text(extrapolated)
        if result.saturated:
            print_text(saturation(result.backlog_growth))


def of_length(scenario: Scenario, requests: int | None) -> Scenario:
    """The scenario with ``requests`` measured requests after the warm-up that its load needs."""
    run = scenario.run
    if requests is not None:
        run = run.model_copy(update={"requests": run.warmup_requests + requests})
    return scenario.model_copy(update={"run": run}).warmed()
