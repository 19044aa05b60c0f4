"""What a person reads of a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from dspark_tuning.measuring.calibrate.acceptance_fit import AcceptanceFit
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration
from dspark_tuning.measuring.calibrate.cost import Error
from dspark_tuning.measuring.calibrate.coverage import Run
from dspark_tuning.measuring.calibrate.model_errors import ModelError, error_quantiles
from dspark_tuning.reporting.tables import blank_table, percent


def errors(found: Iterable[Error]) -> Table:
    """Relative errors of step times."""
    table = blank_table("step times, held out", numbers=["steps", "median error", "nine of ten below"])
    for error in found:
        table.add_row(error.part, str(error.steps), percent(error.median), percent(error.p90))
    return table


def beside(found: Sequence[ModelError], name: str) -> Table:
    """Measured and modelled step times of every cell."""
    middle, most = (percent(error) for error in error_quantiles(list(found)))
    columns = ["tokens", "draft", "context", "steps", "measured ms", f"{name} ms", "error"]
    table = blank_table("requests", numbers=columns, title=f"{name}: median error {middle}, nine of ten below {most}")
    for cell in found:
        times = f"{1000 * cell.measured_s:.2f}", f"{1000 * cell.modelled_s:.2f}", f"{cell.error:+.0%}"
        drafted = "yes" if cell.drafted else "no"
        table.add_row(str(cell.requests), str(cell.tokens), drafted, f"{cell.context:,}", str(cell.steps), *times)
    return table


def acceptance(found: AcceptanceFit) -> Table:
    """Conditional acceptance by class and position, measured / modelled."""
    positions = [str(k + 1) for k in range(found.measured.shape[1])]
    table = blank_table("accepted, measured / model", numbers=positions)
    for place, name in enumerate(found.classes):
        pairs = zip(found.measured[place], found.modelled[place], found.judged[place], strict=True)
        table.add_row(name, *(f"{m:.2f} / {model:.2f}" if n else f"- / {model:.2f}" for m, model, n in pairs))
    return table


def confidence(found: ConfidenceCalibration) -> Table:
    """The head by position."""
    table = blank_table("confidence", numbers=[str(k + 1) for k in range(len(found.temperatures))])
    table.add_row("temperature", *(f"{t:.2f}" for t in found.temperatures))
    table.add_row("ECE as trained", *(f"{x:.3f}" for x in found.ece_before))
    table.add_row("ECE with temperatures", *(f"{x:.3f}" for x in found.ece_after))
    table.add_row("ROC-AUC", *(f"{x:.2f}" for x in found.auc))
    return table


def plan(runs: Sequence[Run]) -> list[str]:
    """What to record still, as a person would do it."""
    if not runs:
        return ["Nothing is missing of the loads asked for."]
    lines = [f"To record still, {sum(run.seconds for run in runs):.0f} s of a server in all:"]
    for run in runs:
        policy = (
            f"a policy that verifies {run.length} drafts (family fixed)" if run.drafted else "one that never drafts"
        )
        lines.append(f"  {run.seconds:.0f} s: dspark load --load {run.clients}, with {policy}")
    return lines
