"""What a person reads of a plan in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from dspark_tuning.arms import PLAIN
from dspark_tuning.plan.attainment import Attained
from dspark_tuning.plan.frontier import Point
from dspark_tuning.plan.proof import VERIFY_ALL
from dspark_tuning.plan.run import Effect, Plan, Planned
from dspark_tuning.tables import blank_table, ms, number, percent


def plans(found: Iterable[Plan], chosen: Plan | None) -> Table:
    """Every choice and way of serving; the chosen one is bold."""
    table = blank_table(
        "hardware",
        "serving",
        numbers=[
            "replicas", "GPUs", "cost / M\ntokens", "goodput\n1/s", "within\nSLOs", "TTFT ms\np50 / p99",
            "TPOT ms\np50 / p99",
        ],
    )  # fmt: skip
    table.add_column("bound")
    for plan in found:
        style = "bold" if plan is chosen else None
        if plan.found is None or plan.bound is None:
            table.add_row(plan.hardware, plan.serving, "", "not met", *[""] * 6, style=style)
            continue
        table.add_row(
            plan.hardware,
            plan.serving,
            f"{plan.found.replicas:,}",
            f"{plan.gpus:,}",
            number(plan.cost or 0.0),
            number(plan.found.goodput_per_s),
            percent(plan.found.share),
            *_latencies(plan.found),
            plan.bound.word,
            style=style,
        )
    return table


def effects(found: Iterable[Effect]) -> Table:
    """One row a change."""
    table = blank_table(
        "what if",
        numbers=["GPUs", "more", "goodput\n1/s", "within\nSLOs", "TTFT ms\np50 / p99", "TPOT ms\np50 / p99"],
    )
    table.add_column("the plan's size under it is")
    for effect in found:
        table.add_row(
            effect.text,
            "not met" if effect.gpus is None else f"{effect.gpus:,}",
            "" if effect.more_gpus is None else f"{effect.more_gpus:+,}",
            number(effect.kept.goodput_per_s),
            percent(effect.kept.share),
            *_latencies(effect.kept),
            f"{effect.bound.word}: {effect.bound.because}",
        )
    return table


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
    """The plan in one sentence."""
    question, chosen = planned.question, planned.chosen
    if chosen is None or chosen.found is None:
        return "No number of replicas of any choice meets the service levels."
    others = {plan.serving: plan.gpus for plan in planned.plans if plan.hardware == chosen.hardware}
    text = (
        f"For {question.rate_per_s:g} requests/s: {chosen.found.replicas:,} replicas of {chosen.hardware}, "
        f"{chosen.gpus:,} GPUs, {number(chosen.cost or 0.0)} a million output tokens at your prices; "
        f"{percent(chosen.found.share)} of the {chosen.found.worst} requests are within their service levels"
    )
    whole, plain = (_needs(others.get(serving)) for serving in (VERIFY_ALL, PLAIN))
    return f"{text}. Verifying every draft takes {whole}, no speculation {plain}."


def _needs(gpus: int | None) -> str:
    return "more than can be bought" if gpus is None else f"{gpus:,}"


def _latencies(found: Attained) -> tuple[str, str]:
    figures = found.figures
    return (
        ms(figures["ttft_p50_s"], figures["ttft_p99_s"]),
        ms(figures["tpot_p50_s"], figures["tpot_p99_s"]),
    )
