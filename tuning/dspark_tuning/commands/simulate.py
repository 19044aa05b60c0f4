"""``dspark simulate``: one run of a scenario."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.commands.common import (
    DEFAULT_SCENARIO,
    Json,
    ScenarioName,
    Seed,
    TraceFile,
    console,
    print_json,
    read_scenario,
)

if TYPE_CHECKING:
    from dspark_simulator.result import Result
    from dspark_simulator.scenario import Scenario
    from dspark_simulator.simulation import Arm

ARMS = "plain, default, fixed-N, static-THETA, greedy, argmax, aligned or oracle"


def simulate(
    scenario: ScenarioName = DEFAULT_SCENARIO,
    load: Annotated[
        float | None, typer.Option("--load", help="Clients of a closed loop, or factor on an open loop's rate.")
    ] = None,
    trace: TraceFile = None,
    seed: Seed = 0,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Requests to measure, after the warm-up.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy.json: its policy, belief and server flags.")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help=f"How to serve: {ARMS}. [default: default]")] = None,
    steps: Annotated[
        Path | None, typer.Option("--steps", help="Write every engine step to this Parquet file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate a scenario once: latencies, throughput and goodput, by class and overall."""
    from dspark_simulator.simulation import StepLog
    from dspark_simulator.simulation import simulate as run
    from dspark_tuning import tables
    from sglang_dspark.errors import InputError

    if policy is not None and arm is not None:
        raise InputError(f"--arm: {arm!r} given together with --policy {policy}; give one of the two")
    chosen = read_scenario(scenario, trace, () if load is None else (load,))
    chosen = _of_length(chosen if load is None else chosen.at_load(load), requests)
    served = policy_arm(policy, chosen) if policy is not None else named_arm(arm or "default", chosen)
    log: list[StepLog] | None = None if steps is None else []
    result = run(chosen, served, seed=seed, log=log)
    if steps is not None:
        import pandas as pd

        from sglang_dspark.files import write_atomically

        write_atomically(steps, pd.DataFrame(log, columns=StepLog._fields).to_parquet(index=False))
    if as_json:
        print_json(_as_json(chosen, served, seed, result))
    else:
        out = console()
        out.print(f"{chosen.name}: {served.name}, seed {seed}")
        out.print(tables.latencies(result))
        out.print(tables.figures(result))


def named_arm(name: str, scenario: Scenario) -> Arm:
    """A way of serving under the scenario's own flags.

    Raises:
        InputError: No such arm, or a gamma or theta that it cannot have.
    """
    from dspark_simulator.simulation import Arm
    from dspark_tuning import arms
    from sglang_dspark.errors import InputError
    from sglang_dspark.policy import Argmax, Greedy

    server = scenario.server
    known = {
        "plain": arms.plain(scenario),
        "default": arms.default(scenario),
        "greedy": Arm(arms.GREEDY, arms.compact(server), Greedy()),
        "argmax": Arm(arms.ARGMAX, arms.compact(server), Argmax(), stock=True),
        "aligned": Arm(arms.ALIGNED, arms.compact(server), Argmax(fill=True), stock=True),
        "oracle": arms.oracle(server),
    }
    if name in known:
        return known[name]
    if match := re.fullmatch(r"fixed-(\d{1,2})", name):
        gamma = int(match[1])
        if not 1 <= gamma <= scenario.drafter_gamma:
            raise InputError(f"--arm: {name!r} is beyond the drafter's block; use fixed-1 to fixed-{scenario.drafter_gamma}")
        return Arm(arms.fixed_name(gamma), server.model_copy(update={"verify_mode": "static", "gamma": gamma}), stock=True)
    if match := re.fullmatch(r"static-([01](?:\.\d+)?)", name):
        theta = float(match[1])
        if theta > 1:
            raise InputError(f"--arm: {name!r} has a threshold above 1; use static-0 to static-1")
        return arms.static_threshold(server, theta)._replace(name=f"static {theta:g}")
    raise InputError(f"--arm: {name!r} is not known; give {ARMS}")


def policy_arm(path: Path, scenario: Scenario) -> Arm:
    """A tuned policy on a server that is started with its flags.

    Raises:
        InputError: Not a policy, a flag that the simulated server cannot have, or a policy for another drafter or for
            other classes.
    """
    from dspark_simulator.server import Server
    from dspark_simulator.simulation import Arm
    from dspark_tuning import arms
    from pydantic import ValidationError

    from sglang_dspark.errors import InputError, from_validation
    from sglang_dspark.policy.artifact import load

    artifact = load(path)
    if artifact.serve == "plain":
        return arms.plain(scenario)
    if artifact.gamma > scenario.drafter_gamma:
        raise InputError(
            f"{path}: gamma: {artifact.gamma} is beyond the block of {scenario.name}'s drafter; "
            f"use a policy with at most {scenario.drafter_gamma}"
        )
    classes = tuple(klass.name for klass in scenario.workload.classes)
    weights = getattr(artifact.policy, "weight", (1.0,))
    if artifact.classes != classes and len(set(weights)) > 1:
        raise InputError(
            f"{path}: classes: {list(artifact.classes)} are not {scenario.name}'s {list(classes)}; tune for that scenario"
        )
    flags = {FLAGS[name]: value for name, value in artifact.server_flags.items() if name in FLAGS}
    flags |= {VARIABLES[name]: value for name, value in artifact.environment.items() if name in VARIABLES}
    try:
        server = Server.model_validate({**scenario.server.model_dump(), **flags, "gamma": artifact.gamma})
    except ValidationError as error:
        raise from_validation(error, path) from error
    return Arm(str(path), server, artifact.policy, artifact.cost_belief)
