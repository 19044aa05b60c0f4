"""Tables of ``dspark validate``."""

from __future__ import annotations

from collections.abc import Iterable

from dspark_tuning.measuring.validate.score import Crossover, Score
from dspark_tuning.measuring.validate.validation import DeploymentCalibration, Predicted
from dspark_tuning.reporting.numbers import NONE, milliseconds, number, percent
from dspark_tuning.reporting.table import Table, Words


def predictions(predictions: Iterable[Predicted]) -> Table:
    """Predicted and measured values row by row; rows that are not valid or not measured have no error."""
    columns = [
        "Model", Words("Hardware"), Words("Arm"), "Clients", "Tokens/s", "Predicted", "Error", "Interpolated",
        "TPOT ms", "Predicted", "Accepted", "Verified", Words("Assumed"),
    ]  # fmt: skip
    rows = []
    for p in predictions:
        row, measured = p.row, p.row.throughput_tok_s
        rows.append(
            [
                row.model,
                row.hardware,
                row.label if row.valid else f"{row.label} (text not valid)",
                str(row.concurrency),
                NONE if measured is None else number(measured),
                number(p.said.throughput_tok_s),
                NONE if measured is None or not row.valid else f"{p.said.throughput_tok_s / measured - 1:+.1%}",
                NONE if measured is None or p.baseline is None else f"{p.baseline / measured - 1:+.1%}",
                NONE if row.tpot_s is None else milliseconds(row.tpot_s),
                milliseconds(p.said.tpot_s),
                f"{p.said.accepted_length:.2f}",
                f"{p.said.verify_length:.2f}",
                ", ".join(p.assumed),
            ]
        )
    return Table("Predictions", columns, rows)


def errors(score: Score) -> Table:
    """Errors of throughput by arm and overall."""
    title = "Errors of throughput"
    if score.order == score.order:
        title += f"; order of the arms: rank correlation {score.order:.2f}"
    rows = [
        [name, str(e.rows), *map(percent, (e.mape, e.worst, e.tpot_mape, e.baseline_mape))]
        for name, e in (*score.by_arm.items(), ("all", score.overall))
    ]
    return Table(title, ["Arm", "Rows", "Mean error", "Worst", "Of TPOT", "Interpolation"], rows)


def calibration(calibration: DeploymentCalibration) -> Table:
    """The parameters of a deployment: their values, and which of them were fitted."""
    where = f"{calibration.rows} rows" + (f" of {calibration.of}" if calibration.of else "")
    key = calibration.key
    return Table(
        f"{key.model} on {key.hardware}: {where}, step times from {calibration.steps}",
        ["Parameter", "Value", Words("Source")],
        [
            [name, f"{value:.3g}", "fitted" if name in calibration.free else "prior"]
            for name, value in calibration.values.items()
        ],
    )


def crossovers(crossovers: Iterable[Crossover]) -> Table:
    """The lowest concurrency at which one arm is slower than another."""
    columns = [
        "Model", Words("Arm"), Words("Falls behind"), "Measured", "Predicted", Words("Within a step"),
    ]  # fmt: skip
    rows = [
        [
            c.model,
            c.ahead,
            c.behind,
            *("never" if place is None else str(place) for place in (c.measured, c.predicted)),
            "yes" if c.within else "no",
        ]
        for c in crossovers
    ]
    return Table("Crossovers", columns, rows)
