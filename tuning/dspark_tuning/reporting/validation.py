"""What a person reads of a validation."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from dspark_tuning.measuring.validate.score import Crossover, Errors, Score
from dspark_tuning.measuring.validate.validation import DeploymentCalibration, Predicted
from dspark_tuning.reporting.tables import blank_table, ms, number, percent


def predictions(rows: Iterable[Predicted]) -> Table:
    """Predicted and measured, row by row; what was not valid or not measured has no error."""
    table = blank_table(
        "model",
        "hardware",
        "arm",
        numbers=[
            "clients",
            "tokens/s",
            "predicted",
            "error",
            "interpolated",
            "TPOT ms",
            "predicted",
            "accepted",
            "verified",
        ],
    )
    table.add_column("assumed")
    for p in rows:
        row, measured = p.row, p.row.throughput_tok_s
        table.add_row(
            row.model,
            row.hardware,
            row.label if row.valid else f"{row.label} (text not valid)",
            str(row.concurrency),
            "-" if measured is None else number(measured),
            number(p.said.throughput_tok_s),
            "-" if measured is None or not row.valid else f"{p.said.throughput_tok_s / measured - 1:+.1%}",
            "-" if measured is None or p.baseline is None else f"{p.baseline / measured - 1:+.1%}",
            "-" if row.tpot_s is None else ms(row.tpot_s),
            ms(p.said.tpot_s),
            f"{p.said.accepted_length:.2f}",
            f"{p.said.verify_length:.2f}",
            ", ".join(p.assumed),
        )
    return table


def errors(score: Score) -> Table:
    """Errors of throughput by arm and overall."""
    table = blank_table("arm", numbers=["rows", "mean error", "worst", "of TPOT", "interpolation"])
    for name, found in (*score.by_arm.items(), ("all", score.overall)):
        table.add_row(name, str(found.rows), *_errors(found))
    table.caption = f"order of the arms: rank correlation {score.order:.2f}" if score.order == score.order else None
    return table


def _errors(found: Errors) -> Iterable[str]:
    return (percent(value) for value in (found.mape, found.worst, found.tpot_mape, found.baseline_mape))


def calibration(found: DeploymentCalibration) -> Table:
    """The quantities of a deployment: what they came out at, and which were only believed."""
    where = f"{found.rows} rows" + (f" of {found.of}" if found.of else "")
    title = f"{found.key.model} on {found.key.hardware}: {where}, step times from {found.steps}"
    table = blank_table("quantity", numbers=["value"], title=title)
    table.add_column("")
    for name, value in found.values.items():
        table.add_row(name, f"{value:.3g}", "fitted" if name in found.free else "as believed")
    return table


def crossovers(found: Iterable[Crossover]) -> Table:
    """The first concurrency at which one arm is behind another."""
    table = blank_table("model", "arm", "falls behind", numbers=["measured", "predicted"])
    table.add_column("within a step")
    for c in found:
        places = ("never" if place is None else str(place) for place in (c.measured, c.predicted))
        table.add_row(c.model, c.ahead, c.behind, *places, "yes" if c.within else "no")
    return table
