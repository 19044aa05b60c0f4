"""The report of a tuning: one HTML file that needs no network, and the same bytes for the same outcome."""

from __future__ import annotations

from itertools import groupby

from dspark_tuning.reporting import deployment, policy, traced
from dspark_tuning.reporting.numbers import load_label
from dspark_tuning.reporting.page import Section, definitions, details, document, paragraph
from dspark_tuning.reporting.tuning import answer, baselines, by_load, history, provenance
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome

__all__ = ["render"]

SIMULATED = (
    "All figures on this page are simulated. Nothing was measured on a GPU here; "
    "'Deployment and traffic' says where the step times come from."
)


def render(outcome: Outcome) -> str:
    """The report of ``outcome`` as one HTML document."""
    sections = [
        _deployment(outcome),
        answer.section(outcome),
        baselines.section(outcome),
        by_load.section(outcome),
        policy.section(outcome),
        by_load.frontier(outcome),
        _runs(outcome),
        history.section(outcome),
        provenance.section(outcome),
    ]
    return document(f"Verification policy for {outcome.scenario.name}", SIMULATED, sections)


def _deployment(outcome: Outcome) -> Section:
    scenario = outcome.scenario
    metric = METRICS[outcome.options.objective]
    objective = ("Objective", f"{metric.title}, {metric.unit}; geometric mean over the loads")
    description = [paragraph(scenario.description)] if scenario.description else []
    facts = definitions([*deployment.facts(scenario), objective])
    return Section("asked", "Deployment and traffic", [*description, facts, deployment.classes(scenario)])


def _runs(outcome: Outcome) -> Section:
    """Latencies and load over time of single runs at a low, a middle and a high load."""
    loads = [(load, list(runs)) for load, runs in groupby(outcome.traced, key=lambda run: run.load)]
    note = paragraph(
        "Single runs of the report set, each arm on the same requests and the same truth: seed "
        f"{outcome.traced[0].seed}. Loads are in {load_label(outcome.scenario)}. Percentiles over all "
        "runs are under 'Every baseline'."
    )
    parts = [
        details(
            f"At load {load:g}",
            *traced.charts(f"-{place}", outcome.scenario, runs),
            unfolded=place == len(loads) // 2,
        )
        for place, (load, runs) in enumerate(loads)
    ]
    return Section("runs", "Latencies and timelines", [note, *parts])
