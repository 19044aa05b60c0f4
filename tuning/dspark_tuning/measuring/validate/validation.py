"""Calibrate on published rows and predict others, by deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

from dspark_tuning.measuring.validate.baseline import interpolated
from dspark_tuning.measuring.validate.deployment import Prediction, check, fill
from dspark_tuning.measuring.validate.fit import ITERATIONS, Job, Subject, fit, run_jobs
from dspark_tuning.measuring.validate.lookup import is_namesake, is_neighbour
from dspark_tuning.measuring.validate.parameters import ParameterSpace
from dspark_tuning.measuring.validate.published_rows import Key, PublishedRow
from dspark_tuning.measuring.validate.steps import Measured, steps_of
from sglang_dspark.errors import InputError


class Predicted(NamedTuple):
    """A row with its prediction, and its throughput by interpolation (tokens per second)."""

    row: PublishedRow
    said: Prediction
    baseline: float | None
    assumed: tuple[str, ...]


class DeploymentCalibration(NamedTuple):
    """Calibration of a deployment.

    Attributes:
        rows: Number of rows.
        of: Origin of the rows if they are of other deployments; empty for its own.
        steps: Source of the step times.
        free: Names of the fitted quantities.
        values: All quantities by name.
        residual: Mean absolute error of throughput, or of step times, on the same rows, a fraction.
    """

    key: Key
    rows: int
    of: str
    steps: str
    free: tuple[str, ...]
    values: Mapping[str, float]
    residual: float


class Validation(NamedTuple):
    """All predictions, in the order of the rows to predict, and the calibrations behind them."""

    predicted: tuple[Predicted, ...]
    calibrations: tuple[DeploymentCalibration, ...]


# Difference of log posteriors that is not significant.
AS_PLAUSIBLE = 1.0


def check_rows(rows: Sequence[PublishedRow], measured: Mapping[Key, Measured]) -> None:
    """Check rows before the fit, which takes minutes.

    Raises:
        InputError: Rows that cannot be simulated, with the reason for the first and the number of others.
    """
    errors = []
    for row in rows:
        try:
            check(row, measured.get(row.key))
        except InputError as error:
            errors.append(error)
    if errors:
        others = f" ({len(errors) - 1} more of the rows cannot be simulated)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{others}")


def fit_steps(predict: Sequence[PublishedRow], measured: Mapping[Key, Measured]) -> int:
    """Largest number of calls of ``progress`` by :func:`validate`."""
    rows = {row.key: row for row in predict}.values()
    return sum(1 + ITERATIONS * len(steps_of(measured.get(row.key)).possible_tp(row)) for row in rows)


def validate(
    fit_rows: Sequence[PublishedRow],
    predict_rows: Sequence[PublishedRow],
    measured: Mapping[Key, Measured],
    pool: Executor | None = None,
    without: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Validation:
    """Predict rows from others.

    Each deployment (model, hardware, tp) is calibrated on its own rows of ``fit_rows``; without rows and measured
    steps, on those of similar models on the same hardware, or else of the same model on other hardware. Rows with
    invalid text are excluded, since their acceptance is unknown. Of ``predict_rows`` only the settings of each run are
    used, no measurement.

    Args:
        measured: Curves and tables of steps by deployment.
        without: A quantity to remove from the model.
        progress: Called after every step of a fit with the number of predicted rows.

    Raises:
        InputError: See :func:`check_rows`.
    """
    usable = [row for row in fit_rows if row.valid and (row.throughput_tok_s or row.step_s) is not None]
    check_rows([*predict_rows, *usable], measured)
    predictions: dict[Key, list[Prediction]] = {}
    assumed: dict[Key, list[tuple[str, ...]]] = {}
    calibrations = []
    for key in dict.fromkeys(row.key for row in predict_rows):
        wanted = [row for row in predict_rows if row.key == key]
        done = sum(map(len, predictions.values()))
        steps = steps_of(measured.get(key))
        rows, of = _rows(wanted[0], usable, measured.get(key))
        most = max(row.concurrency for row in (*wanted, *rows))
        space = steps.space(wanted[0], {row.label for row in rows})
        if without is not None:
            space = space.without(without)
        tp, subject, values = _fit(wanted[0], rows, most, measured.get(key), space, pool, partial(progress, done))
        filled = [fill(row, most, tp) for row in wanted]
        jobs = [Job(row, fields, values, measured.get(key)) for row, fields in zip(wanted, filled, strict=True)]
        said = run_jobs([*jobs, *subject.jobs(values)], pool)
        progress(done + len(wanted))
        predictions[key] = said[: len(wanted)]
        assumed[key] = [fields.assumed for fields in filled]
        errors = [_error(row, prediction) for row, prediction in zip(rows, said[len(wanted) :], strict=True)]
        calibrations.append(
            DeploymentCalibration(
                key,
                len(rows),
                of,
                steps.name,
                space.free,
                values,
                sum(errors) / len(errors) if errors else float("nan"),
            )
        )
    ordered = [
        Predicted(row, predictions[row.key].pop(0), interpolated(row, usable), assumed[row.key].pop(0))
        for row in predict_rows
    ]
    return Validation(tuple(ordered), tuple(calibrations))


def _rows(wanted: PublishedRow, usable: Sequence[PublishedRow], measured: Measured) -> tuple[list[PublishedRow], str]:
    """Rows to calibrate a deployment on, and their origin if they are of other deployments."""
    own = [row for row in usable if row.key == wanted.key]
    if own:
        return own, ""
    # Rows of other deployments inform only the roofline, which measured steps do not need.
    others = usable if measured is None else []
    for whose, alike in (
        (f"other models on {wanted.hardware}", is_neighbour),
        (f"{wanted.model} on other hardware", is_namesake),
    ):
        similar = [row for row in others if alike(row, wanted)]
        if similar:
            return similar, whose
    return [], "nobody"


def _fit(
    wanted: PublishedRow,
    rows: Sequence[PublishedRow],
    most_clients: int,
    measured: Measured,
    space: ParameterSpace,
    pool: Executor | None,
    progress: Callable[[], None],
) -> tuple[int, Subject, dict[str, float]]:
    """Calibrate, and infer an unknown number of GPUs: the fewest that explain the rows about as well as any.

    Returns:
        The number of GPUs, the fitted rows, and all quantities by name.
    """
    fits = []
    for tp in steps_of(measured).possible_tp(wanted):
        subject = Subject(rows, [fill(row, most_clients, tp) for row in rows], measured)
        fits.append((tp, subject, fit(subject, space, pool, progress)))
    best = min(each.loss for *_, each in fits)
    tp, subject, fitted = next(each for each in fits if each[-1].loss <= best + AS_PLAUSIBLE)
    return tp, subject, fitted.values


def _error(row: PublishedRow, said: Prediction) -> float:
    if row.throughput_tok_s is not None:
        return abs(said.throughput_tok_s / row.throughput_tok_s - 1)
    assert row.step_s is not None
    return abs(said.step_s / row.step_s - 1)
