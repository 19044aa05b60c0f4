"""A plan for machines: the same bytes for the same question, so without the time that it took."""

from __future__ import annotations

from typing import Any

from dspark_tuning.plan.run import Effect, Plan, Planned

FIGURES = (
    "throughput_tok_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_p50_s",
    "tpot_p99_s",
    "accepted_length",
    "verify_length",
)


def as_json(planned: Planned) -> dict[str, Any]:
    """Plain values; seconds, tokens and shares of one.

    ``plans`` has every choice and way of serving, those that meet no service levels with ``replicas`` null, ``chosen``
    is the place of the plan among them, and ``what_if`` has one entry a change.
    """
    question = planned.question
    return {
        "rate_per_s": question.rate_per_s,
        "attainment": question.attainment,
        "confidence": question.confidence,
        "plans": [_plan(plan) for plan in planned.plans],
        "chosen": next((place for place, plan in enumerate(planned.plans) if plan is planned.chosen), None),
        "what_if": [_effect(effect) for effect in planned.effects],
        "frontier": [point._asdict() for point in planned.points],
    }


def _plan(plan: Plan) -> dict[str, Any]:
    found = plan.found
    return {
        "hardware": plan.hardware,
        "serving": plan.serving,
        "step_times": plan.scenario.cost.kind,
        "replicas": None if found is None else found.replicas,
        "gpus": plan.gpus,
        "cost_per_million_tokens": plan.cost,
        "goodput": None if found is None else found.goodput_per_s,
        "within_slos": None if found is None else {"class": found.worst, "share": found.share, "at_least": found.low},
        **({} if found is None else {name: found.figures[name] for name in FIGURES}),
        "bound": None if plan.bound is None else plan.bound._asdict(),
        "policy": None if plan.arm.policy is None else plan.arm.policy.model_dump(mode="json"),
        "server": plan.arm.server.model_dump(mode="json"),
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "change": effect.text,
        "gpus": effect.gpus,
        "more_gpus": effect.more_gpus,
        "goodput": effect.kept.goodput_per_s,
        "within_slos": {"class": effect.kept.worst, "share": effect.kept.share},
        **{name: effect.kept.figures[name] for name in FIGURES},
        "bound": effect.bound._asdict(),
    }
