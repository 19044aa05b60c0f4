"""The HTML report of a plan."""

from __future__ import annotations

from itertools import groupby

from dspark_tuning.planning import tuned
from dspark_tuning.planning.launch_script import launch
from dspark_tuning.planning.plan import Plan, Planned
from dspark_tuning.reporting import curves, deployment, traced
from dspark_tuning.reporting.numbers import Estimate
from dspark_tuning.reporting.page import Part, Section, code, definitions, document, lead, paragraph, subheading
from dspark_tuning.reporting.plan import tables
from dspark_tuning.reporting.policy import choice
from dspark_tuning.reporting.provenance import provenance

SIMULATED = (
    "All figures on this page are simulated. Nothing was measured on a GPU here; the table of hardware says where each "
    "choice's step times come from."
)


def render(planned: Planned, command: str, trials: int, seed: int) -> str:
    """The plan as one HTML document."""
    sections = [_traffic(planned), _answer(planned)]
    if planned.effects:
        sections.append(Section("what-if", "What if", [tables.effects(planned.effects)]))
    if planned.chosen is not None:
        sections += [_policy(planned.chosen), _curves(planned), _runs(planned)]
    sections.append(_provenance(command, trials, seed))
    return document(f"Capacity plan: {planned.question.name}", SIMULATED, sections)


def _traffic(planned: Planned) -> Section:
    question = planned.question
    facts = [
        ("Traffic", f"{question.rate_per_s:g} requests/s, {question.workload.arrivals.kind} arrivals"),
        ("Required", f"{question.attainment:.0%} of each class's requests within both of its SLOs"),
        ("Confidence", f"{question.confidence:.0%}, one-sided, over replications with their own requests and truths"),
        ("Routing", question.router.replace("_", " ")),
    ]
    description = [paragraph(question.description)] if question.description else []
    classes = deployment.classes(planned.plans[0].scenario)
    return Section(
        "asked", "Traffic and hardware", [*description, definitions(facts), classes, tables.hardware(planned)]
    )


def _answer(planned: Planned) -> Section:
    parts: list[Part] = [lead(tables.answer(planned)), tables.plans(planned)]
    if planned.chosen is not None:
        parts += [subheading("To start a replica"), code(launch(planned.chosen))]
    return Section("answer", "Answer", parts)


def _policy(chosen: Plan) -> Section:
    return Section("policy", "The policy", choice(chosen.scenario, chosen.arm))


def _curves(planned: Planned) -> Section:
    def by_serving_mode(x: str, y: str) -> list[curves.Curve]:
        return [
            curves.Curve(
                name,
                [curves.Point(f"{at.clients} clients", getattr(at, x), Estimate(getattr(at, y))) for at in points],
            )
            for name, points in groupby(planned.points, key=lambda point: point.serving)
        ]

    speed = curves.frontier("speed", by_serving_mode("speed_tok_s", "throughput_tok_s"))
    verified = curves.budget("verified", by_serving_mode("clients", "verify_tokens"))
    note = paragraph("One replica of the chosen hardware under closed loops, requests of the same classes.")
    return Section("curves", "Throughput and speed", [note, speed, verified])


def _runs(planned: Planned) -> Section:
    proof = planned.proof
    assert proof is not None
    simulated = "one replica at its part of the traffic" if proof.scenario.replicas == 1 else "all replicas"
    note = paragraph(f"Single runs of {simulated}, on the same requests and the same truth: seed {proof.seeds[0]}.")
    return Section("runs", "Latencies and timelines", [note, *traced.charts("", proof.scenario, proof.traced)])


def _provenance(command: str, trials: int, seed: int) -> Section:
    settings = tuned.searched(trials, seed)
    facts = [
        ("Tuning", f"{settings.trials} candidates for goodput per hardware and band of load, kept for later plans"),
        ("Seed", str(seed)),
        ("MTP-1", "one draft token from the model's own MTP layer, assumed to be accepted as a DSpark block's first"),
    ]
    return provenance(facts, subheading("To reproduce this report"), code(command))
