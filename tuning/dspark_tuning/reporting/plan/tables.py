"""What a person reads of a plan in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.capacity import Capacity, replicas_for
from dspark_tuning.planning.comparison_run import VERIFY_ALL
from dspark_tuning.planning.frontier import Point
from dspark_tuning.planning.plan import Effect, Plan, Planned, choices
from dspark_tuning.planning.question import Question
from dspark_tuning.reporting import asked
from dspark_tuning.reporting.tables import blank_table, ms, number, percent, steady
from dspark_tuning.search.baselines import PLAIN, TUNED
from dspark_tuning.search.summary import saturation


def plans(planned: Planned) -> Table:
    """Every choice and way of serving; the chosen one is bold."""
    table = blank_table(
        "hardware",
        "serving",
        numbers=[
            "1/s a\nreplica", "replicas", "GPUs", "cost / M\ntokens", "goodput\n1/s", "within\nSLOs", "one\nless",
            "TTFT ms\np50 / p99", "TPOT ms\np50 / p99",
        ],
    )  # fmt: skip
    table.add_column("bound")
    for plan in planned.plans:
        style = "bold" if plan is planned.chosen else None
        carried = "" if plan.sized is None else capacity(plan.sized.capacity).replace(" [", "\n[")
        if plan.found is None or plan.bound is None:
            table.add_row(plan.hardware, plan.serving, carried, needs(plan, planned.question), *[""] * 7, style=style)
            continue
        table.add_row(
            plan.hardware,
            plan.serving,
            carried,
            f"{plan.found.replicas:,}",
            f"{plan.gpus:,}",
            number(plan.cost or 0.0),
            number(plan.found.goodput_per_s),
            percent(plan.found.share),
            one_less(plan, planned.question).replace(", ", "\n"),
            *_latencies(plan.found),
            plan.bound.word,
            style=style,
        )
    return table


def capacity(found: Capacity) -> str:
    return f"{number(found.per_s)} [{number(found.low)}, {number(found.high)}]"


def needs(plan: Plan, question: Question) -> str:
    """How many replicas a plan takes."""
    if plan.found is not None:
        return f"{plan.found.replicas:,}"
    return "not met" if plan.sized is None else f"over {question.most_replicas:,}"


def one_less(plan: Plan, question: Question) -> str:
    """What one replica less reaches; empty where there is none."""
    smaller = None if plan.sized is None else plan.sized.smaller
    return "" if smaller is None else f"{percent(smaller.share)}, {smaller.verdict(question.attainment)}"


def sizes(planned: Planned) -> str:
    """The size of the model and the KV pool of each choice, a line each."""
    lines = [f"{hardware}: {asked.size(one)}; KV pool {asked.pool(one)}" for hardware, one, _ in choices(planned)]
    return "\n".join(lines)


def effects(found: Iterable[Effect]) -> Table:
    """One row a change."""
    table = blank_table(
        "what if",
        numbers=["GPUs", "more", "goodput\n1/s", "within\nSLOs", "TTFT ms\np50 / p99", "TPOT ms\np50 / p99"],
    )
    table.add_column("the plan's size under it is")
    for effect in found:
        kept = effect.kept
        saturated = kept is not None and kept.saturated
        table.add_row(
            effect.text,
            "not met" if effect.gpus is None else f"{effect.gpus:,}",
            "" if effect.more_gpus is None else f"{effect.more_gpus:+,}",
            "0" if kept is None else steady(number(kept.goodput_per_s), saturated),
            percent(0.0 if kept is None else kept.share),
            *(("", "") if kept is None else [steady(text, saturated) for text in _latencies(kept)]),
            reason(effect),
        )
    return table


def reason(effect: Effect) -> str:
    """What is left of the plan under a change, what it carries, and what bounds it."""
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
    """Figures 7 and 8 of the paper, in numbers."""
    table = blank_table(
        "serving", numbers=["clients", "tokens/s\nof a user", "tokens/s\na GPU", "verify tokens\na request"]
    )
    for point in points:
        table.add_row(
            point.serving,
            f"{point.clients:,}",
            number(point.speed_tok_s),
            number(point.throughput_tok_s),
            number(point.verify_tokens),
        )
    return table


def answer(planned: Planned) -> str:
    """The plan in a few sentences."""
    question, chosen = planned.question, planned.chosen
    if chosen is None or chosen.found is None or chosen.sized is None:
        return _unmet(planned)
    others = {plan.serving: needs(plan, question) for plan in planned.plans if plan.hardware == chosen.hardware}
    text = (
        f"A replica of {chosen.hardware} carries {capacity(chosen.sized.capacity)} requests/s. "
        f"For {question.rate_per_s:g} requests/s: {chosen.found.replicas:,} replicas, "
        f"{chosen.gpus:,} GPUs, {number(chosen.cost or 0.0)} a million output tokens at your prices; "
        f"{percent(chosen.found.share)} of the {chosen.found.worst} requests are within their service levels"
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


def _latencies(found: Attained) -> tuple[str, str]:
    figures = found.figures
    return (
        ms(figures["ttft_p50_s"], figures["ttft_p99_s"]),
        ms(figures["tpot_p50_s"], figures["tpot_p99_s"]),
    )
