"""The answer in one sentence; what an unmodified SGLang takes and brings, and what the policy adds to it."""

from __future__ import annotations

from dspark_tuning.reporting.numbers import heading, interval
from dspark_tuning.reporting.page import Html, Row, Section, code, lead, paragraph, subheading, table
from dspark_tuning.search import baselines, summary
from dspark_tuning.search.comparison import Gain, Ratio, gain
from dspark_tuning.search.launch_command import SPS_TABLE, STS, command
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    return Section("answer", "Answer", [lead(outcome.artifact.advice), *_stock(outcome), *_policy(outcome)])


def _stock(outcome: Outcome) -> list[Html]:
    """What an unmodified SGLang takes, and what it brings."""
    gain, title = summary.split(outcome).stock, METRICS[outcome.options.objective].title
    return [
        subheading("What an unmodified SGLang takes"),
        paragraph(
            f"{SPS_TABLE} is its cost table and {STS} holds the temperatures of the drafter's confidences; DRAFT "
            f"stands for your DSpark draft. Over SGLang's defaults this gains {_by(gain)} in {title}."
        ),
        code(command(outcome.scenario, outcome.stock)),
    ]


def _policy(outcome: Outcome) -> list[Html]:
    """What the chosen arm adds."""
    winner, split = outcome.winner, summary.split(outcome)
    parts = [subheading("What the choice adds")]
    if winner == outcome.stock:
        parts.append(paragraph("Nothing beyond doubt: the choice is the server above."))
    else:
        parts += [
            paragraph(
                f"'{winner.name}' gains {_by(split.policy)} over that server: {_by(split.both)} over the defaults."
            ),
            code(command(outcome.scenario, winner)),
        ]
    return [*parts, _gains(outcome)]


def _by(gain: Gain) -> str:
    return f"{'a factor of ' if isinstance(gain, Ratio) else ''}{interval(gain)}"


def _gains(outcome: Outcome) -> Html:
    winner = outcome.winner.name
    pairs = [
        (baselines.STOCK, baselines.DEFAULT),
        (winner, baselines.STOCK),
        (winner, baselines.DEFAULT),
        (winner, baselines.PLAIN),
    ]
    compared = [METRICS[key] for key in outcome.versus["metric"].unique()]
    return table(
        "Where the gain comes from, over all loads, with 95 % intervals, bold where they exclude no gain: paired "
        "ratios (geometric mean), or the mean difference a second where one of the two has next to nothing",
        ["Gain", *(heading(metric.title) for metric in compared)],
        [
            Row(f"{arm} over {base}", [interval(gain(outcome.rows, arm, base, metric.key)) for metric in compared])
            for arm, base in dict.fromkeys(pairs)
            if arm != base
        ],
    )
