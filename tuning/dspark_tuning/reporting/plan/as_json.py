"""A plan for machines: the same bytes for the same question, so without the time that it took."""

from __future__ import annotations

from typing import Any

from dspark_simulator.scenario import Scenario
from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.plan import Effect, Plan, Planned, choices

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

    ``choices`` has the sizes of the model on each hardware, where its shape is known. ``plans`` has every choice and
    way of serving: ``capacity_per_replica`` is null where a replica meets the service levels at no rate, ``replicas``
    also where more of them are needed than the limit ``most_replicas``. ``chosen`` is the place of the plan among them,
    and ``what_if`` has one entry a change.
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
        "kv_pool_tokens": memory.kv_tokens,
        "kv_pool_tokens_without_draft": memory.kv_tokens_without_draft,
    }


def _plan(plan: Plan, attainment: float) -> dict[str, Any]:
    found = plan.found
    smaller = None if plan.sized is None else plan.sized.smaller
    return {
        "hardware": plan.hardware,
        "serving": plan.serving,
        "step_times": plan.scenario.cost.kind,
        "capacity_per_replica": None if plan.sized is None else plan.sized.capacity._asdict(),
        "replicas": None if found is None else found.replicas,
        "gpus": plan.gpus,
        "cost_per_million_tokens": plan.cost,
        "goodput": None if found is None else found.goodput_per_s,
        "within_slos": None if found is None else _within(found, attainment),
        "one_less": None if smaller is None else {"replicas": smaller.replicas, **_within(smaller, attainment)},
        "saturated": None if found is None else found.saturated,
        "attainment": None if found is None else found.figures["attainment"],
        **({} if found is None else {name: found.figures[name] for name in FIGURES}),
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


def _within(found: Attained, attainment: float) -> dict[str, Any]:
    return {
        "class": found.worst,
        "share": found.share,
        "at_least": found.low,
        "at_most": found.high,
        "by_class": found.within,
        "verdict": found.verdict(attainment),
    }
