"""The answer in one sentence, where the gain comes from, and how to serve."""

from __future__ import annotations

import shlex

from dspark_tuning import arms, summary
from dspark_tuning.compare import Ratio, gain
from dspark_tuning.objectives import METRICS
from dspark_tuning.report.numbers import heading, interval
from dspark_tuning.report.page import Html, Row, Section, code, lead, paragraph, subheading, table
from dspark_tuning.tune import Outcome


def section(outcome: Outcome) -> Section:
    winner = outcome.winner.name
    steps = [
        ("Flags alone", arms.TUNED_FLAGS, arms.DEFAULT),
        ("The choice on top of them", winner, arms.TUNED_FLAGS),
        ("Both", winner, arms.DEFAULT),
        ("Against no speculation", winner, arms.PLAIN),
    ]
    compared = [METRICS[key] for key in outcome.versus["metric"].unique()]
    gains = table(
        "Where the gain comes from: paired ratios over all loads (geometric mean) with 95 % intervals, "
        "bold where the interval excludes 1; above 1 is better",
        ["Gain", *(heading(metric.title) for metric in compared)],
        [
            Row(f"{step}: {arm} ÷ {base}", [interval(gain(outcome.rows, arm, base, metric.key)) for metric in compared])
            for step, arm, base in steps
        ],
    )
    return Section(
        "answer", "Answer", [lead(outcome.artifact.advice), paragraph(_split(outcome)), gains, *_serve(outcome)]
    )


def _split(outcome: Outcome) -> str:
    """The gain as the product, or the sum, of what the flags and what the policy give."""
    split, title = summary.split(outcome), METRICS[outcome.options.objective].title
    how = "times" if isinstance(split.both, Ratio) else "by"
    return (
        f"Gain in {title} over SGLang's defaults, {how} {interval(split.both)}: {how} {interval(split.flags)} from the "
        f"tuned flags alone, and {how} {interval(split.policy)} from '{outcome.winner.name}' on top of them."
    )


def _serve(outcome: Outcome) -> list[Html]:
    if not outcome.artifact.server_flags:
        return []
    variables = [f"{name}={shlex.quote(value)}" for name, value in outcome.artifact.environment.items()]
    flags = [f"{flag} {shlex.join(value.split())}" for flag, value in outcome.artifact.server_flags.items()]
    start = f"python -m sglang.launch_server --model-path {shlex.quote(outcome.scenario.model)}"
    if outcome.winner.policy is not None:
        flags.append("--speculative-dspark-policy policy.json")
    parts = [subheading("How to serve"), code(" \\\n  ".join([*variables, start, *flags]))]
    if outcome.sps_table is not None:
        parts.append(
            paragraph(
                "The belief of this policy is also written as an SGLang cost table: a server without our plugin takes "
                "it with --speculative-dspark-sps-table-path."
            )
        )
    return parts
