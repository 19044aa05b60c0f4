"""The page of a plan, from the parts of every report."""

from __future__ import annotations

from itertools import groupby

from dspark_tuning.planning import tuned
from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.launch_script import launch
from dspark_tuning.planning.plan import Effect, Plan, Planned, choices
from dspark_tuning.reporting import asked, curves
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.numbers import Estimate
from dspark_tuning.reporting.page import (
    Html,
    Row,
    Section,
    code,
    definitions,
    document,
    lead,
    paragraph,
    subheading,
    table,
)
from dspark_tuning.reporting.plan import purchases, what_if
from dspark_tuning.reporting.plan.tables import answer, needs, one_less, reason
from dspark_tuning.reporting.policy import choice
from dspark_tuning.reporting.timelines import timelines
from dspark_tuning.reporting.versions import versions
from dspark_tuning.search.traced_run import LATENCIES

SIMULATED = (
    "All figures on this page are simulated. Nothing was measured on a GPU here; the table of hardware says where each "
    "choice's step times come from."
)
UNKNOWN = float("nan")


def render(planned: Planned, command: str, trials: int, seed: int) -> str:
    """The plan as one HTML document."""
    sections = [_asked(planned), _answer(planned)]
    if planned.effects:
        sections.append(_what_if(planned))
    if planned.chosen is not None:
        sections += [_policy(planned.chosen), _curves(planned), _runs(planned)]
    sections.append(_again(command, trials, seed))
    return document(f"Capacity plan: {planned.question.name}", SIMULATED, sections)


def _asked(planned: Planned) -> Section:
    question = planned.question
    facts = [
        ("Traffic", f"{question.rate_per_s:g} requests/s, {question.workload.arrivals.kind} arrivals"),
        ("To be met", f"{question.attainment:.0%} of each class's requests within both of its service levels"),
        ("Confidence", f"{question.confidence:.0%}, one-sided, over replications with their own requests and truths"),
        ("Routing", question.router.replace("_", " ")),
    ]
    bought = [
        Row(
            hardware,
            [
                f"{one.gpus} GPUs",
                f"{price:g}",
                asked.size(one),
                asked.pool(one),
                asked.step_times(one),
                asked.truths(one.live),
            ],
        )
        for hardware, one, price in choices(planned)
    ]
    described = [paragraph(question.description)] if question.description else []
    return Section(
        "asked",
        "What was asked",
        [
            *described,
            definitions(facts),
            asked.classes(planned.plans[0].scenario),
            table(
                "Hardware, and where its step times come from",
                ["Hardware", "A replica", "Price a GPU hour", "Model", "KV pool", "Step times", "Live steps"],
                bought,
                words=True,
            ),
        ],
    )


def _answer(planned: Planned) -> Section:
    question = planned.question
    caption = (
        "The fewest replicas that meet the service levels; 'within SLOs' is of the worst class, with its one-sided "
        f"{question.confidence:.0%} bounds, and so are the requests/s that a replica carries"
    )
    parts = [lead(answer(planned)), purchases.plans(caption, [_plan(made, planned) for made in planned.plans])]
    if planned.chosen is not None:
        parts += [subheading("To start a replica"), code(launch(planned.chosen))]
    return Section("answer", "Answer", parts)


def _plan(made: Plan, planned: Planned) -> purchases.Plan:
    found = made.found
    return purchases.Plan(
        made.hardware,
        made.serving,
        Estimate(UNKNOWN) if made.sized is None else Estimate(*made.sized.capacity),
        needs(made, planned.question),
        made.gpus,
        made.cost,
        Estimate(UNKNOWN if found is None else found.goodput_per_s),
        Estimate(UNKNOWN) if found is None else _share(found),
        one_less(made, planned.question),
        UNKNOWN if found is None else found.figures["ttft_p99_s"],
        UNKNOWN if found is None else found.figures["tpot_p99_s"],
        "" if made.bound is None else made.bound.word,
        made is planned.chosen,
    )


def _share(found: Attained) -> Estimate:
    return Estimate(found.share, max(0.0, found.low), min(1.0, found.high))


def _what_if(planned: Planned) -> Section:
    return Section(
        "what-if",
        "What if",
        [
            what_if.what_if(
                "One change at a time: the GPUs needed then, tuned again, and what the plan's own size does under it",
                [_effect(effect) for effect in planned.effects],
            )
        ],
    )


def _effect(effect: Effect) -> what_if.WhatIf:
    kept = effect.kept
    # What is left of a plan may be nothing, and a saturated run has no steady figures.
    figures = {} if kept is None or kept.saturated else kept.figures
    return what_if.WhatIf(
        effect.text,
        effect.gpus,
        effect.more_gpus,
        Estimate(figures.get("goodput_per_s", UNKNOWN)),
        0.0 if kept is None else kept.share,
        figures.get("ttft_p99_s", UNKNOWN),
        figures.get("tpot_p99_s", UNKNOWN),
        reason(effect),
    )


def _policy(chosen: Plan) -> Section:
    return Section("policy", "The policy", choice(chosen.scenario, chosen.arm))


def _curves(planned: Planned) -> Section:
    by_serving = [(name, list(points)) for name, points in groupby(planned.points, key=lambda point: point.serving)]
    speed = [
        curves.Curve(
            name,
            [
                curves.Point(f"{point.clients} clients", point.speed_tok_s, Estimate(point.throughput_tok_s))
                for point in points
            ],
        )
        for name, points in by_serving
    ]
    verified = [
        curves.Curve(
            name,
            [
                curves.Point(f"{point.clients} clients", point.clients, Estimate(point.verify_tokens))
                for point in points
            ],
        )
        for name, points in by_serving
    ]
    said = paragraph("One replica of the chosen hardware under closed loops, requests of the same classes.")
    return Section(
        "curves", "Throughput and speed", [said, curves.frontier("speed", speed), curves.budget("verified", verified)]
    )


def _runs(planned: Planned) -> Section:
    proof = planned.proof
    assert proof is not None
    levels = [klass.slo for klass in proof.scenario.workload.classes]
    whole = "one replica at its part of the traffic" if proof.scenario.replicas == 1 else "all replicas"
    return Section(
        "runs",
        "Latencies and timelines",
        [
            paragraph(f"Single runs of {whole}, on the same requests and the same truth: seed {proof.seeds[0]}."),
            distributions(
                "latencies",
                "Share of the requests (TTFT, TPOT) and of the tokens (ITL) that take at most so long, all classes "
                "together; thin dotted lines are the classes' service levels",
                {kind.upper(): {run.arm: run.latencies[kind] for run in proof.watched} for kind in LATENCIES},
                {"TTFT": [slo.ttft_s for slo in levels], "TPOT": [slo.tpot_s for slo in levels]},
            ),
            timelines("timeline", [(run.arm, run.timeline) for run in proof.watched]),
        ],
    )


def _again(command: str, trials: int, seed: int) -> Section:
    how = tuned.searched(trials, seed)
    facts = [
        ("Versions", versions()),
        ("Tuning", f"{how.trials} candidates for goodput, once a hardware and band of load, kept for later plans"),
        ("Seed", str(seed)),
        ("MTP-1", "one draft token from a layer of its own, accepted as the first of a DSpark block is: assumed"),
    ]
    parts: list[Html] = [definitions(facts), subheading("To get these figures again"), code(command)]
    return Section("provenance", "Provenance", parts)
