"""Runs of the report set from within: latencies and what happened over time, at a low, a middle and a high load."""

from __future__ import annotations

from itertools import groupby

from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.numbers import load_label
from dspark_tuning.reporting.page import Html, Section, details, paragraph
from dspark_tuning.reporting.timelines import timelines
from dspark_tuning.search.traced_run import LATENCIES, Watched
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    loads = [(load, list(runs)) for load, runs in groupby(outcome.watched, key=lambda run: run.load)]
    said = paragraph(
        "Single runs of the report set, each arm on the same requests and the same truth: seed "
        f"{outcome.watched[0].seed}. A load is a number of {load_label(outcome.scenario)}. Percentiles over all "
        "runs are under 'Every baseline'."
    )
    parts = [
        details(
            f"At load {load:g}",
            _latencies(f"latencies-{place}", outcome, runs),
            timelines(f"timeline-{place}", [(run.arm, run.timeline) for run in runs]),
            unfolded=place == len(loads) // 2,
        )
        for place, (load, runs) in enumerate(loads)
    ]
    return Section("runs", "Latencies and timelines", [said, *parts])


def _latencies(key: str, outcome: Outcome, runs: list[Watched]) -> Html:
    levels = [klass.slo for klass in outcome.scenario.workload.classes]
    return distributions(
        key,
        "Share of the requests (TTFT, TPOT) and of the tokens (ITL) that take at most so long, all classes together; "
        "thin dotted lines are the classes' service levels",
        {kind.upper(): {run.arm: run.latencies[kind] for run in runs} for kind in LATENCIES},
        {"TTFT": [slo.ttft_s for slo in levels], "TPOT": [slo.tpot_s for slo in levels]},
    )
