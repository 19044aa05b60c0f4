"""Launch script of a plan."""

from __future__ import annotations

from dspark_tuning.planning.plan import Plan
from dspark_tuning.search.launch_command import MODEL, command, model_path


def launch(plan: Plan) -> str:
    """Shell script that starts one replica of a plan."""
    model = plan.scenario.model
    note = f" {MODEL} is the path or the Hugging Face id of {model}." if model_path(model) == MODEL else ""
    if plan.arm.server.speculative:
        note += " DRAFT is your DSpark draft."
    replicas = 1 if plan.attained is None else plan.attained.replicas
    return (
        f"#!/bin/sh\n# One of {replicas} replicas of {plan.hardware}.{note}\n"
        f"exec env {command(plan.scenario, plan.arm)}\n"
    )
