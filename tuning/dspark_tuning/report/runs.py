"""Runs of the report set from within: latencies and what happened over time, at a low, a middle and a high load."""

from __future__ import annotations

from itertools import groupby

from dspark_tuning.report.latencies import latencies
from dspark_tuning.report.numbers import load_label
from dspark_tuning.report.page import Section, details, paragraph
from dspark_tuning.report.timelines import timelines
from dspark_tuning.tune import Outcome


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
            latencies(f"latencies-{place}", runs, outcome.scenario.workload.classes),
            timelines(f"timeline-{place}", {run.arm: run.timeline for run in runs}),
            unfolded=place == len(loads) // 2,
        )
        for place, (load, runs) in enumerate(loads)
    ]
    return Section("runs", "Latencies and timelines", [said, *parts])
