"""Launch script of a plan."""

from __future__ import annotations

from dspark_tuning.planning.plan import Plan
from dspark_tuning.search.launch_command import script


def launch(plan: Plan) -> str:
    """Shell script that starts one replica of a plan."""
    replicas = 1 if plan.attained is None else plan.attained.replicas
    return script(plan.scenario, plan.arm, f"One of {replicas} replicas of {plan.hardware}.")
