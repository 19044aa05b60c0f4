"""How a replica of a plan is started."""

from __future__ import annotations

import shlex

from dspark_tuning.plan.run import Plan
from dspark_tuning.server_flags import environment, flags


def launch(plan: Plan) -> str:
    """A shell script that starts one replica."""
    server, scenario = plan.arm.server, plan.scenario
    words = ["python", "-m", "sglang.launch_server", "--model-path", scenario.model]
    if scenario.gpus > 1:
        words += ["--tp", str(scenario.gpus)]
    variables: list[str] = []
    note = ""
    if server.speculative:
        note = " DRAFT is your DSpark draft."
        variables = [f"{name}={shlex.quote(value)}" for name, value in environment(server).items()]
        words += ["--speculative-draft-model-path", "DRAFT"]
    words += [word for flag, value in flags(server).items() for word in (flag, *value.split())]
    if plan.arm.policy is not None:
        words += ["--speculative-dspark-policy", "policy.json"]
    replicas = 1 if plan.found is None else plan.found.replicas
    # A flag and its values on a line.
    lines = shlex.join(words).replace(" --", " \\\n  --")
    return (
        f"#!/bin/sh\n# One of {replicas} replicas of {plan.hardware}.{note}\nexec env {' '.join([*variables, lines])}\n"
    )
