"""How long steps take, and how well the fit tells it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.page import Html, Row, Section, definitions, figure, table
from dspark_tuning.reporting.plots import SERIES, drawing, line, reference
from dspark_tuning.search.traced_run import QUANTILES

# Points of a scatter that a reader can tell apart.
POINTS = 2000


def section(found: Calibrated) -> Section:
    cost = found.cost.cost
    rows = [
        Row(error.part, [f"{error.steps:,}", f"{error.median:.1%}", f"{error.p90:.1%}"]) for error in found.cost.errors
    ]
    steps = found.decoded.assign(predicted_s=found.cost.predicted_s)
    shown = steps.iloc[:: max(1, len(steps) // POINTS)]
    scatter = drawing("Measured, ms", "Predicted, ms")
    for (drafted, part), style in zip(shown.groupby("drafted"), SERIES, strict=False):
        name = "with a draft" if drafted else "without a draft"
        line(scatter, name, style, 1e3 * part["step_s"], 1e3 * part["predicted_s"], mode="markers")
    top = 1e3 * float(steps[["step_s", "predicted_s"]].max().max())
    reference(scatter, "equal", [0, top], [0, top])
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
            figure(
                "predicted",
                scatter,
                "Predicted against measured times of decode steps; on the thin dotted line the two are equal.",
                same,
            ),
            _distribution(steps),
        ],
    )


def _distribution(steps: pd.DataFrame) -> Html:
    kinds = {
        "With a draft" if drafted else "Without a draft": {
            name: np.quantile(part[column].to_numpy(), QUANTILES)
            for name, column in (("measured", "step_s"), ("predicted", "predicted_s"))
        }
        for drafted, part in steps.groupby("drafted")
    }
    return distributions("step-times", "Share of the decode steps that take at most so long", kinds)
