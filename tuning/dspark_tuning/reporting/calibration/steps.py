"""Step times: the fitted cost model and its errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.model_errors import ModelError, error_quantiles
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.numbers import percent
from dspark_tuning.reporting.page import Html, Section, definitions, figure
from dspark_tuning.reporting.plots import SERIES, drawing, line, reference
from dspark_tuning.reporting.table import Table, Words
from dspark_tuning.search.traced_run import QUANTILES

# The most points of the scatter chart.
POINTS = 2000


def errors(calibrated: Calibrated) -> Table:
    """Relative errors of step times on steps that the fit did not use."""
    rows = [
        [error.part, f"{error.steps:,}", f"{error.median:.1%}", f"{error.p90:.1%}"] for error in calibrated.cost.errors
    ]
    return Table("Errors on held-out steps", ["Part", "Steps", "Median", "90th percentile"], rows)


def model_errors(cells: Sequence[ModelError], name: str) -> Table:
    """Measured step times and those of scenario ``name``, by cell."""
    median, p90 = (percent(error) for error in error_quantiles(list(cells)))
    rows = [
        [
            str(cell.requests),
            str(cell.tokens),
            "yes" if cell.drafted else "no",
            f"{cell.context:,}",
            str(cell.steps),
            f"{1000 * cell.measured_s:.2f}",
            f"{1000 * cell.modelled_s:.2f}",
            f"{cell.error:+.0%}",
        ]
        for cell in cells
    ]
    columns = ["Requests", "Tokens", Words("Draft"), "Context", "Steps", "Measured ms", f"{name} ms", "Error"]
    return Table(f"{name}: median error {median}, 90th percentile {p90}", columns, rows)


def section(calibrated: Calibrated) -> Section:
    cost = calibrated.cost.cost
    steps = calibrated.decoded.assign(predicted_s=calibrated.cost.predicted_s)
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
    same = Table(
        "Medians of cells with at least five steps, ms",
        ["Requests, tokens", Words("Draft"), "Steps", "Measured", "Predicted", "Error"],
        [
            [
                f"{row['requests']}, {row['tokens']}",
                "yes" if row["drafted"] else "no",
                f"{row['steps']:,}",
                f"{1e3 * row['measured']:.2f}",
                f"{1e3 * row['predicted']:.2f}",
                f"{row['predicted'] / row['measured'] - 1:+.1%}",
            ]
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
        ("Captured", calibrated.cost.capture.why),
        (
            "Live steps around the fit",
            f"{calibrated.profile.live.slope[0]:.0%} to {calibrated.profile.live.slope[1]:.0%}",
        ),
    ]
    return Section(
        "steps",
        "Step times",
        [
            definitions(facts),
            errors(calibrated),
            figure(
                "predicted",
                scatter,
                "Predicted against measured times of decode steps; the thin dotted line marks equality.",
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
    return distributions("step-times", "Cumulative share of decode steps by time", kinds)
