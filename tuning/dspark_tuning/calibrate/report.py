"""A calibration as one HTML file that needs no network: what came out, how far off it is, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.calibrate.calibration import Calibrated
from dspark_tuning.calibrate.coverage import LEAST_STEPS
from dspark_tuning.report.page import (
    Html,
    Row,
    Section,
    Strong,
    code,
    definitions,
    document,
    figure,
    lead,
    paragraph,
    table,
)
from dspark_tuning.report.plots import SERIES, drawing

NOTE = "Measured on the recorded server; nothing on this page speaks of other hardware."
BINS = 10
# Points of a scatter that a reader can tell apart.
POINTS = 2000


def render(found: Calibrated, commands: Sequence[str]) -> str:
    """The report of a calibration.

    Args:
        commands: That made it and that use it.
    """
    sections = [_answer(found), _steps(found), _accepted(found), _head(found), _covered(found), _again(commands)]
    return document(f"Calibration of {found.profile.model}", NOTE, sections)


def _answer(found: Calibrated) -> Section:
    worst = max(found.cost.errors, key=lambda error: error.median, default=None)
    text = (
        f"{len(found.decoded):,} decode steps were recorded."
        if worst is None
        else f"A step's time is told to within {worst.median:.1%} in the middle and {worst.p90:.1%} for nine of ten "
        f"({worst.part}, the worst part), on steps that the fit did not see."
    )
    warnings = [paragraph(f"Warning. {sentence}") for sentence in found.profile.warnings]
    return Section("answer", "What came out", [lead(text), *warnings])


def _steps(found: Calibrated) -> Section:
    cost = found.cost.cost
    rows = [
        Row(error.part, [f"{error.steps:,}", f"{error.median:.1%}", f"{error.p90:.1%}"]) for error in found.cost.errors
    ]
    steps = found.decoded.assign(predicted_s=found.cost.predicted_s)
    shown = steps.iloc[:: max(1, len(steps) // POINTS)]
    scatter = drawing("measured, ms", "predicted, ms")
    for (name, part), style in zip(shown.groupby("drafted"), SERIES, strict=False):
        scatter.add_scatter(
            x=1e3 * part["step_s"],
            y=1e3 * part["predicted_s"],
            mode="markers",
            name="with a draft" if name else "without a draft",
            marker={"color": style.colour, "symbol": style.symbol, "size": 5},
        )
    top = 1e3 * float(steps[["step_s", "predicted_s"]].max().max())
    scatter.add_scatter(x=[0, top], y=[0, top], mode="lines", name="equal", line={"color": "#7d8288", "dash": "dot"})
    cells = (
        steps.groupby(["requests", "tokens", "drafted"], as_index=False)
        .agg(steps=("step_s", "size"), measured=("step_s", "median"), predicted=("predicted_s", "median"))
        .query("steps >= 5")
        .to_dict("records")
    )
    same = table(
        "Medians of cells with at least five steps, ms",
        ["Requests, tokens", "Draft", "Steps", "Measured", "Predicted", "Error"],
        [
            Row(
                f"{row['requests']}, {row['tokens']}",
                [
                    "yes" if row["drafted"] else "no",
                    f"{row['steps']:,}",
                    f"{1e3 * row['measured']:.2f}",
                    f"{1e3 * row['predicted']:.2f}",
                    f"{row['predicted'] / row['measured'] - 1:+.1%}",
                ],
            )
            for row in cells
        ],
    )
    parts = cost.plain
    facts = [
        ("Overhead of a step", f"{1e3 * cost.overhead_s:.2f} ms and {1e3 * cost.request_s:.3f} ms a request"),
        (
            "Without speculation",
            "not measured"
            if parts is None
            else f"{1e3 * parts.overhead_s:.2f} ms and {1e3 * parts.request_s:.3f} ms a request",
        ),
        ("A context token", f"{1e6 * cost.context_s_per_token:.3f} µs"),
        ("Captured", found.cost.capture.why),
        ("Live steps around the fit", f"{found.profile.live.slope[0]:.0%} to {found.profile.live.slope[1]:.0%}"),
    ]
    return Section(
        "steps",
        "Step times",
        [
            definitions(facts),
            table("Errors on held-out steps", ["Part", "Steps", "Median", "Nine of ten below"], rows),
            figure("scatter", scatter, "Predicted against measured step times", same),
        ],
    )


def _accepted(found: Calibrated) -> Section:
    fit = found.acceptance
    if fit is None:
        return Section("acceptance", "Acceptance", [paragraph("The recording has no accepted lengths.")])
    positions = np.arange(1, fit.measured.shape[1] + 1)
    chart = drawing("draft position", "accepted, given the prefix was")
    for place, (name, style) in enumerate(zip(fit.classes, SERIES * 3, strict=False)):
        chart.add_scatter(
            x=positions,
            y=fit.measured[place],
            mode="markers",
            name=f"{name}, measured",
            marker={"color": style.colour, "symbol": style.symbol, "size": 9},
        )
        chart.add_scatter(
            x=positions,
            y=fit.modelled[place],
            mode="lines",
            name=f"{name}, model",
            line={"color": style.colour, "dash": style.dash},
        )
    rows = [
        Row(
            f"{name}, position {k + 1}",
            [f"{fit.judged[place, k]:,}", f"{fit.measured[place, k]:.3f}", f"{fit.modelled[place, k]:.3f}"],
        )
        for place, name in enumerate(fit.classes)
        for k in range(len(positions))
    ]
    same = table("Conditional acceptance", ["Class and position", "Drafts judged", "Measured", "Model"], rows)
    return Section("acceptance", "Acceptance", [figure("positions", chart, "Acceptance by position", same)])


def _head(found: Calibrated) -> Section:
    head = found.head
    if head is None:
        return Section("confidence", "Confidence", [paragraph("Too few whole rounds with confidences.")])
    chart = drawing("survival that the head says", "survived")
    rows = []
    for (name, survival), style in zip(
        (("as trained", head.raw), ("with temperatures", head.survival)), SERIES, strict=False
    ):
        said, happened, count = _reliability(survival[head.held].ravel(), head.survived[head.held].ravel())
        chart.add_scatter(
            x=said,
            y=happened,
            mode="lines+markers",
            name=name,
            line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 8},
        )
        rows += [Row(f"{name}, {s:.2f}", [f"{h:.2f}", f"{n:,}"]) for s, h, n in zip(said, happened, count, strict=True)]
    chart.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="equal", line={"color": "#7d8288", "dash": "dot"})
    by_position = table(
        "By position, on rounds that the temperatures were not fitted to",
        ["Position", "Temperature", "ECE as trained", "ECE with temperatures", "ROC-AUC"],
        [
            Row(str(k + 1), [f"{t:.2f}", f"{before:.3f}", f"{after:.3f}", f"{auc:.2f}"])
            for k, (t, before, after, auc) in enumerate(
                zip(head.temperatures, head.ece_before, head.ece_after, head.auc, strict=True)
            )
        ],
    )
    same = table("Reliability", ["Said", "Survived", "Prefixes"], rows)
    return Section(
        "confidence", "Confidence", [by_position, figure("reliability", chart, "Reliability of survival", same)]
    )


def _reliability(said: NDArray[np.float64], happened: NDArray[np.bool_]) -> tuple[list[float], list[float], list[int]]:
    place = np.minimum((said * BINS).astype(int), BINS - 1)
    frame = pd.DataFrame({"place": place, "said": said, "happened": happened.astype(float)})
    bins = frame.groupby("place").agg(said=("said", "mean"), happened=("happened", "mean"), count=("said", "size"))
    return bins["said"].tolist(), bins["happened"].tolist(), bins["count"].tolist()


def _covered(found: Calibrated) -> Section:
    rows = [
        Row(
            f"{cell.requests} requests",
            [
                f"{cell.length} drafts verified" if cell.drafted else "no draft",
                str(cell.steps),
                "yes" if cell.steps >= LEAST_STEPS else Strong("no"),
            ],
        )
        for cell in found.coverage.grid
    ]
    return Section(
        "coverage",
        "Coverage",
        [table("Steps near each load", ["Load", "Verified", "Steps", "Covered"], rows, words=True)],
    )


def _again(commands: Sequence[str]) -> Section:
    parts: list[Html] = [code("\n".join(commands))]
    return Section("commands", "Commands", parts)
