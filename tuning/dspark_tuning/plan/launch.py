"""How a replica of a plan is started."""

from __future__ import annotations

from dspark_tuning.launch import command
from dspark_tuning.plan.run import Plan


def launch(plan: Plan) -> str:
    """A shell script that starts one replica."""
    note = " DRAFT is your DSpark draft." if plan.arm.server.speculative else ""
    replicas = 1 if plan.found is None else plan.found.replicas
    return (
        f"#!/bin/sh\n# One of {replicas} replicas of {plan.hardware}.{note}\n"
        f"exec env {command(plan.scenario, plan.arm)}\n"
    )
