"""Tables and sentences of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.capacity import Capacity, replicas_for
from dspark_tuning.planning.comparison_run import VERIFY_ALL
from dspark_tuning.planning.frontier import Point
from dspark_tuning.planning.plan import Effect, Plan, Planned, choices
from dspark_tuning.planning.question import Question
from dspark_tuning.reporting import deployment
from dspark_tuning.reporting.numbers import NONE, Estimate, estimate, milliseconds, number, percent, steady
from dspark_tuning.reporting.table import Cell, Strong, Table, Words
from dspark_tuning.search.baselines import PLAIN, TUNED
from dspark_tuning.search.summary import saturation


def plans(planned: Planned) -> Table:
    """One row per hardware and serving mode; the chosen plan is bold."""
    question = planned.question
    return Table(
        "The fewest replicas that meet the SLOs; 'within SLOs' is of the worst class, with its one-sided "
        f"{question.confidence:.0%} bounds, and so are the requests/s that a replica carries",
        [
            "Hardware and serving mode", "Requests/s a replica", "Replicas", "GPUs", "Cost a million tokens",
            "Good requests/s", "Within SLOs", "One replica less", "TTFT ms, p50 / p99", "TPOT ms, p50 / p99",
            Words("Bound by"),
        ],
        [_plan(plan, question, plan is planned.chosen) for plan in planned.plans],
    )  # fmt: skip


def _plan(plan: Plan, question: Question, chosen: bool) -> list[Cell]:
    name, attained = f"{plan.hardware}, {plan.serving}", plan.attained
    within = Estimate(math.nan)
    if attained is not None:
        within = Estimate(attained.share, max(0.0, attained.low), min(1.0, attained.high))
    return [
        Strong(f"{name} (chosen)") if chosen else name,
        NONE if plan.sized is None else capacity(plan.sized.capacity),
        needs(plan, question),
        NONE if plan.gpus is None else f"{plan.gpus:,}",
        NONE if plan.cost is None else number(plan.cost),
        NONE if attained is None else number(attained.goodput_per_s),
        estimate(within, share=True),
        one_less(plan, question),
        *_latencies(attained),
        "" if plan.bound is None else plan.bound.word,
    ]


def capacity(capacity: Capacity) -> str:
    """``8.00 [7.00, 9.00]``, in requests/s."""
    return estimate(Estimate(capacity.per_s, capacity.low, capacity.high))


def needs(plan: Plan, question: Question) -> str:
    """The number of replicas of a plan, or why there is none."""
    if plan.attained is not None:
        return f"{plan.attained.replicas:,}"
    return "not met" if plan.sized is None else f"over {question.most_replicas:,}"


def one_less(plan: Plan, question: Question) -> str:
    """Attainment of one replica less; empty where there is none."""
    smaller = None if plan.sized is None else plan.sized.smaller
    return "" if smaller is None else f"{percent(smaller.share)}, {smaller.verdict(question.attainment)}"


def hardware(planned: Planned) -> Table:
    """Size, price and step times of each hardware."""
    columns = ("A replica", "Price a GPU hour", "Model", "KV pool", "Step times", "Live steps", "Acceptance")
    return Table(
        "Hardware, and where its step times come from",
        ["Hardware", *map(Words, columns)],
        [
            [
                name,
                f"{one.gpus} GPUs",
                f"{price:g}",
                deployment.size(one),
                deployment.pool(one),
                deployment.step_times(one),
                deployment.truths(one.live),
                deployment.acceptance(one),
            ]
            for name, one, price in choices(planned)
        ],
    )


def sizes(planned: Planned) -> str:
    """The size of the model, the KV pool and what the figures rest on, a line each for each hardware."""
    return "\n".join(
        f"{name}: {deployment.size(one)}; KV pool {deployment.pool(one)}\n{name}: {deployment.rests_on(one)}"
        for name, one, _ in choices(planned)
    )


def effects(effects: Iterable[Effect]) -> Table:
    """One row per change: the GPUs needed then, and what the plan's own size attains under it."""
    rows = []
    for effect in effects:
        kept = effect.kept
        saturated = kept is not None and kept.saturated
        rows.append(
            [
                effect.text,
                "not met" if effect.gpus is None else f"{effect.gpus:,}",
                "" if effect.more_gpus is None else f"{effect.more_gpus:+,}",
                number(0.0) if kept is None else steady(number(kept.goodput_per_s), saturated),
                percent(0.0 if kept is None else kept.share),
                *(steady(text, saturated) for text in _latencies(kept)),
                reason(effect),
            ]
        )
    return Table(
        "One change at a time: the GPUs needed then, tuned again; the rest is of the plan's own size under the change",
        [
            "Change", "GPUs", "More", "Good requests/s", "Within SLOs", "TTFT ms, p50 / p99", "TPOT ms, p50 / p99",
            Words("Why"),
        ],
        rows,
    )  # fmt: skip


def reason(effect: Effect) -> str:
    """The replicas left under a change, what they carry, and what bounds them."""
    parts = []
    if effect.lost:
        assert effect.sized is not None
        carried = effect.left * effect.sized.capacity.low
        parts.append(f"replicas left: {effect.left:,}, which carry {number(carried)}/s")
    if effect.kept is not None and effect.kept.saturated:
        parts.append(saturation(effect.kept.figures["backlog_growth"]))
    if effect.bound is not None:
        parts.append(f"{effect.bound.word}: {effect.bound.because}")
    return "; ".join(parts)


def frontier(points: Iterable[Point]) -> Table:
    """Throughput, user speed and verify tokens by serving mode and clients: the paper's Figures 7 and 8."""
    columns = ["Serving mode", "Clients", "Tokens/s of a user", "Tokens/s a GPU", "Verify tokens a request"]
    rows = [
        [
            point.serving,
            f"{point.clients:,}",
            *map(number, (point.speed_tok_s, point.throughput_tok_s, point.verify_tokens)),
        ]
        for point in points
    ]
    return Table("Throughput and speed of one replica in a closed loop", columns, rows)


def answer(planned: Planned) -> str:
    """The plan in a few sentences."""
    question, chosen = planned.question, planned.chosen
    if chosen is None or chosen.attained is None or chosen.sized is None:
        return _unmet(planned)
    others = {plan.serving: needs(plan, question) for plan in planned.plans if plan.hardware == chosen.hardware}
    unit = "at your prices" if question.priced else "GPU hours"
    text = (
        f"A replica of {chosen.hardware} carries {capacity(chosen.sized.capacity)} requests/s. "
        f"For {question.rate_per_s:g} requests/s: {chosen.attained.replicas:,} replicas, "
        f"{chosen.gpus:,} GPUs, {number(chosen.cost or 0.0)} {unit} a million output tokens; "
        f"{percent(chosen.attained.share)} of the {chosen.attained.worst} requests are within their SLOs"
    )
    if less := one_less(chosen, question):
        text += f" (one replica less: {less})"
    return f"{text}. Replicas with every draft verified: {others[VERIFY_ALL]}; without speculation: {others[PLAIN]}."


def _unmet(planned: Planned) -> str:
    tuned = [(plan.sized.capacity, plan) for plan in planned.plans if plan.serving == TUNED and plan.sized is not None]
    if not tuned:
        return "No number of replicas of any choice meets the service levels."
    question = planned.question
    carried, plan = max(tuned, key=lambda one: one[0].low)
    return (
        f"The limit of {question.most_replicas:,} replicas is reached: a replica of {plan.hardware} carries "
        f"{capacity(carried)} requests/s, so {question.rate_per_s:g} requests/s take "
        f"{replicas_for(question.rate_per_s, carried.low):,}."
    )


def _latencies(attained: Attained | None) -> tuple[str, str]:
    if attained is None:
        return NONE, NONE
    figures = attained.figures
    return (
        milliseconds(figures["ttft_p50_s"], figures["ttft_p99_s"]),
        milliseconds(figures["tpot_p50_s"], figures["tpot_p99_s"]),
    )
