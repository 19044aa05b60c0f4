"""A plan as JSON: the same bytes for the same question, so without the time that it took."""

from __future__ import annotations

from typing import Any

from dspark_simulator.scenario import Scenario
from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.plan import Effect, Plan, Planned, choices
from dspark_tuning.reporting.deployment import rests_on

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

    ``choices`` holds the sizes of the model on each hardware, where its shape is known. ``plans`` holds every hardware
    and serving mode: ``capacity_per_replica`` is null where a replica meets the SLOs at no rate, ``replicas`` also
    where the limit ``most_replicas`` is exceeded. ``chosen`` is an index into ``plans``, and ``what_if`` has one entry
    per change.
    """
    question = planned.question
    return {
        "rate_per_s": question.rate_per_s,
        "attainment": question.attainment,
        "confidence": question.confidence,
        "most_replicas": question.most_replicas,
        "choices": [_choice(hardware, scenario) for hardware, scenario, _ in choices(planned)],
        "plans": [_plan(plan, question.attainment) for plan in planned.plans],
        "chosen": next((place for place, plan in enumerate(planned.plans) if plan is planned.chosen), None),
        "what_if": [_effect(effect, question.attainment) for effect in planned.effects],
        "frontier": [point._asdict() for point in planned.points],
    }


def _choice(hardware: str, scenario: Scenario) -> dict[str, Any]:
    shape, memory = scenario.shape(), scenario.memory
    return {
        "hardware": hardware,
        "model": scenario.model,
        **({} if shape is None else shape.figures() | {"notes": list(shape.notes)}),
        "rests_on": rests_on(scenario),
        "kv_pool_tokens": memory.kv_tokens,
        "kv_pool_tokens_without_draft": memory.kv_tokens_without_draft,
    }


def _plan(plan: Plan, attainment: float) -> dict[str, Any]:
    attained = plan.attained
    smaller = None if plan.sized is None else plan.sized.smaller
    return {
        "hardware": plan.hardware,
        "serving": plan.serving,
        "step_times": plan.scenario.cost.kind,
        "capacity_per_replica": None if plan.sized is None else plan.sized.capacity._asdict(),
        "replicas": None if attained is None else attained.replicas,
        "gpus": plan.gpus,
        "cost_per_million_tokens": plan.cost,
        "goodput": None if attained is None else attained.goodput_per_s,
        "within_slos": None if attained is None else _within(attained, attainment),
        "one_less": None if smaller is None else {"replicas": smaller.replicas, **_within(smaller, attainment)},
        "saturated": None if attained is None else attained.saturated,
        "attainment": None if attained is None else attained.figures["attainment"],
        **({} if attained is None else {name: attained.figures[name] for name in FIGURES}),
        "bound": None if plan.bound is None else plan.bound._asdict(),
        "policy": None if plan.arm.policy is None else plan.arm.policy.model_dump(mode="json"),
        "server": plan.arm.server.model_dump(mode="json"),
    }


def _effect(effect: Effect, attainment: float) -> dict[str, Any]:
    kept = effect.kept
    return {
        "change": effect.text,
        "gpus": effect.gpus,
        "more_gpus": effect.more_gpus,
        "capacity_per_replica": None if effect.sized is None else effect.sized.capacity._asdict(),
        "replicas_left": effect.left,
        "goodput": 0.0 if kept is None else kept.goodput_per_s,
        "within_slos": None if kept is None else _within(kept, attainment),
        "saturated": None if kept is None else kept.saturated,
        "attainment": 0.0 if kept is None else kept.figures["attainment"],
        **({} if kept is None else {name: kept.figures[name] for name in FIGURES}),
        "bound": None if effect.bound is None else effect.bound._asdict(),
    }


def _within(attained: Attained, attainment: float) -> dict[str, Any]:
    return {
        "class": attained.worst,
        "share": attained.share,
        "at_least": attained.low,
        "at_most": attained.high,
        "by_class": attained.within,
        "verdict": attained.verdict(attainment),
    }
