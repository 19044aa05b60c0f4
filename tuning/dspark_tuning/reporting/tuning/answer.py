"""The recommendation, the launch commands, and the gain of each."""

from __future__ import annotations

from dspark_tuning.reporting.numbers import heading, interval
from dspark_tuning.reporting.page import Html, Section, code, lead, paragraph, subheading
from dspark_tuning.reporting.table import Table
from dspark_tuning.search import baselines, summary
from dspark_tuning.search.comparison import Gain, Ratio, gain
from dspark_tuning.search.launch_command import SPS_TABLE, STS, command
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    return Section(
        "answer", "Answer", [lead(outcome.artifact.advice), *_stock(outcome), *_policy(outcome), gains(outcome)]
    )


def gains(outcome: Outcome) -> Table:
    """Gains of an unmodified SGLang with tuned flags and of the tuned policy, over all loads."""
    winner = outcome.winner.name
    pairs = [
        (baselines.STOCK, baselines.DEFAULT),
        (winner, baselines.STOCK),
        (winner, baselines.DEFAULT),
        (winner, baselines.PLAIN),
    ]
    compared = [METRICS[key] for key in outcome.versus["metric"].unique()]
    return Table(
        "Where the gain comes from, over all loads, with 95 % intervals, bold where they exclude no gain: paired "
        "ratios (geometric mean), or the mean difference a second where one of the two has next to nothing",
        ["Gain", *(heading(metric.title) for metric in compared)],
        [
            [f"{arm} over {base}", *(interval(gain(outcome.rows, arm, base, metric.key)) for metric in compared)]
            for arm, base in dict.fromkeys(pairs)
            if arm != base
        ],
    )


def _stock(outcome: Outcome) -> list[Html]:
    gain, title = summary.split(outcome).stock, METRICS[outcome.options.objective].title
    return [
        subheading("An unmodified SGLang with tuned flags"),
        paragraph(
            f"{SPS_TABLE} is its cost table and {STS} holds the temperatures of the drafter's confidences. "
            f"The gain over SGLang's defaults is {_amount(gain)} in {title}."
        ),
        code(command(outcome.scenario, outcome.stock, outcome.options.folder)),
    ]


def _policy(outcome: Outcome) -> list[Html]:
    winner, split = outcome.winner, summary.split(outcome)
    parts = [subheading("The tuned policy")]
    if winner == outcome.stock:
        return [*parts, paragraph("No policy gains anything certain: the recommendation is the server above.")]
    return [
        *parts,
        paragraph(
            f"'{winner.name}' gains {_amount(split.policy)} over that server and {_amount(split.both)} over SGLang's "
            "defaults."
        ),
        code(command(outcome.scenario, winner, outcome.options.folder)),
    ]


def _amount(gain: Gain) -> str:
    return f"{'a factor of ' if isinstance(gain, Ratio) else ''}{interval(gain)}"
