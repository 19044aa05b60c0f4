"""The report of a drafter evaluation: one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dspark_tuning.measuring.drafters.evaluation import Evaluation
from dspark_tuning.measuring.drafters.figures import DrafterFigures, Estimated
from dspark_tuning.reporting.calibration.confidence import of_head
from dspark_tuning.reporting.numbers import NONE
from dspark_tuning.reporting.page import Section, code, document, figure, paragraph
from dspark_tuning.reporting.plots import drawing, line, styles
from dspark_tuning.reporting.table import Table

NOTE = "Rounds generated offline: drafts and acceptance equal those of a server; step times are not measured."


def render(evaluated: Evaluation, commands: Sequence[str]) -> str:
    """The report of an evaluation as one HTML document.

    Args:
        commands: Reproduce the evaluation and use its acceptance model.
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
    """``3.21 [3.10, 3.32]``."""
    if math.isnan(value.value):
        return NONE
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def lengths(evaluated: Evaluation) -> Table:
    """Accepted length by data set and temperature."""
    rows = [
        [
            f"{each.dataset}, temperature {each.temperature:g}",
            f"{each.requests:,}",
            f"{each.rounds:,}",
            estimate(each.accepted_length),
        ]
        for each in evaluated.figures
    ]
    return Table("Accepted length", ["Data set", "Requests", "Rounds", "Accepted length [95 %]"], rows)


def positions(figures: Sequence[DrafterFigures]) -> Table:
    """Conditional acceptance by data set and draft position."""
    rows = [[f"{each.dataset}, temperature {each.temperature:g}", *map(estimate, each.acceptance)] for each in figures]
    columns = ["Data set", *(str(k + 1) for k in range(len(figures[0].acceptance)))]
    return Table("Conditional acceptance by position", columns, rows)


def _lengths(evaluated: Evaluation) -> Section:
    note = f"Tokens a round, the target's own included; {evaluated.family}, blocks of {evaluated.gamma}."
    return Section("lengths", "Accepted length", [paragraph(note), lengths(evaluated)])


def _positions(figures: Sequence[DrafterFigures], temperature: float) -> Section:
    chart = drawing("Draft position", "Acceptance, given an accepted prefix")
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
    caption = "Share of drafts accepted among those whose prefix was accepted, with 95 % intervals over requests."
    key, title = f"positions-{temperature:g}", f"Acceptance by position at temperature {temperature:g}"
    return Section(key, title, [figure(key, chart, caption, positions(figures))])


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
        [
            f"{each.dataset}, {swept.threshold:.1f}",
            f"{swept.verify_tokens:.2f}",
            f"{swept.accepted_length:.2f}",
            _share(swept.acceptance),
        ]
        for each in figures
        for swept in each.sweep
    ]
    columns = ["Data set, threshold", "Tokens verified", "Accepted length", "Drafts accepted"]
    caption = "Blocks cut before the first draft whose raw confidence is below a threshold, 0.0 to 0.9 from the right."
    key = f"sweep-{temperature:g}"
    title = f"Confidence threshold at temperature {temperature:g}"
    return Section(key, title, [figure(key, chart, caption, Table("Threshold sweep", columns, rows))])


def _share(value: float) -> str:
    return NONE if np.isnan(value) else f"{value:.1%}"
