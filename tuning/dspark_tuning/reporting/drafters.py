"""An evaluation as one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dspark_tuning.measuring.drafters.evaluation import Evaluation
from dspark_tuning.measuring.drafters.figures import DrafterFigures, Estimated
from dspark_tuning.reporting.calibration.confidence import of_head
from dspark_tuning.reporting.page import Html, Row, Section, code, document, figure, paragraph, table
from dspark_tuning.reporting.plots import drawing, line, styles

NOTE = "Rounds played offline: the drafts and their acceptance are a server's, its step times are not."


def render(evaluated: Evaluation, commands: Sequence[str]) -> str:
    """The page.

    Args:
        commands: That made it and that use what it comes with.
    """
    temperatures = sorted({each.temperature for each in evaluated.figures})
    sections = [_lengths(evaluated)]
    for temperature in temperatures:
        mine = [each for each in evaluated.figures if each.temperature == temperature]
        sections.append(_positions(mine, temperature))
        if mine[0].sweep:
            sections.append(_sweep(mine, temperature))
        head = evaluated.head.get(temperature)
        if head is not None:
            sections.append(of_head(head, f"confidence-{temperature:g}", f"Confidence at temperature {temperature:g}"))
    if evaluated.fit is None:
        none = "No acceptance model: it needs a confidence head, and at least 200 rounds."
        sections.append(Section("model", "For the simulator", [paragraph(none)]))
    else:
        sections.append(Section("model", "For the simulator", [paragraph(text) for text in evaluated.fit.warnings]))
    sections.append(Section("commands", "Commands", [code("\n".join(commands))]))
    return document(f"{evaluated.draft} for {evaluated.target}", NOTE, sections)


def estimate(value: Estimated) -> str:
    """A figure with its interval, for people."""
    if math.isnan(value.value):
        return "-"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _lengths(evaluated: Evaluation) -> Section:
    rows = [
        Row(
            f"{each.dataset}, temperature {each.temperature:g}",
            [f"{each.requests:,}", f"{each.rounds:,}", estimate(each.accepted_length)],
        )
        for each in evaluated.figures
    ]
    header = ["Data set", "Requests", "Rounds", "Accepted length [95 %]"]
    return Section(
        "lengths",
        "Accepted length",
        [
            paragraph(f"Tokens a round, the target's own included; {evaluated.family}, blocks of {evaluated.gamma}."),
            table("Accepted length", header, rows),
        ],
    )


def _positions(figures: Sequence[DrafterFigures], temperature: float) -> Section:
    chart = drawing("Draft position", "Accepted, given the prefix was")
    names = [each.dataset for each in figures]
    for each, style in zip(figures, styles(names), strict=True):
        values = each.acceptance
        line(
            chart,
            each.dataset,
            style,
            range(1, len(values) + 1),
            [v.value for v in values],
            low=[v.low for v in values],
            high=[v.high for v in values],
        )
    rows = [Row(each.dataset, [estimate(v) for v in each.acceptance]) for each in figures]
    header = ["Data set", *(str(k + 1) for k in range(len(figures[0].acceptance)))]
    same: Html = table("Conditional acceptance by position", header, rows)
    caption = "Share of the drafts accepted of those whose prefix was, with 95 % intervals over requests."
    key = f"positions-{temperature:g}"
    return Section(key, f"Acceptance by position at temperature {temperature:g}", [figure(key, chart, caption, same)])


def _sweep(figures: Sequence[DrafterFigures], temperature: float) -> Section:
    chart = drawing("Tokens verified a round", "Accepted length")
    for each, style in zip(figures, styles([each.dataset for each in figures]), strict=True):
        line(
            chart,
            each.dataset,
            style,
            [swept.verify_tokens for swept in each.sweep],
            [swept.accepted_length for swept in each.sweep],
        )
    rows = [
        Row(
            f"{each.dataset}, {swept.threshold:.1f}",
            [f"{swept.verify_tokens:.2f}", f"{swept.accepted_length:.2f}", _share(swept.acceptance)],
        )
        for each in figures
        for swept in each.sweep
    ]
    header = ["Data set, threshold", "Tokens verified", "Accepted length", "Drafts accepted"]
    caption = "Blocks cut before the first draft whose raw confidence is below a threshold, 0.0 to 0.9 from the right."
    key = f"sweep-{temperature:g}"
    title = f"Confidence threshold at temperature {temperature:g}"
    return Section(key, title, [figure(key, chart, caption, table("Threshold sweep", header, rows))])


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"
