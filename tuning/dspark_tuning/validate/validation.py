"""Calibrating on published rows and predicting others, deployment by deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from dspark_simulator.costs.curve import Measurements
from dspark_tuning.validate import deployment, parameters
from dspark_tuning.validate.baseline import interpolated
from dspark_tuning.validate.deployment import Prediction
from dspark_tuning.validate.fit import ITERATIONS, Job, Subject, fit, run_jobs
from dspark_tuning.validate.rows import Key, Row


class Predicted(NamedTuple):
    """A row, what the simulator says of it, and what interpolation does (tokens per second)."""

    row: Row
    said: Prediction
    baseline: float | None
    assumed: tuple[str, ...]


class Calibration(NamedTuple):
    """What a deployment was calibrated on, and with what result.

    Attributes:
        rows: Rows that counted.
        of: Whose rows they are, where they are not the deployment's own.
        curve: Whether a measured curve gave the step times.
        free: Names of the quantities that were fitted.
        values: All quantities by name.
        residual: Mean absolute error of throughput on the same rows, a fraction.
    """

    key: Key
    rows: int
    of: str
    curve: bool
    free: tuple[str, ...]
    values: Mapping[str, float]
    residual: float


class Validation(NamedTuple):
    """All predictions, in the order of the rows asked for."""

    predicted: tuple[Predicted, ...]
    calibrations: tuple[Calibration, ...]


# A difference of the logarithms of two plausibilities that decides nothing.
AS_PLAUSIBLE = 1.0


def steps(predict: Sequence[Row]) -> int:
    """Calls of ``progress`` that :func:`validate` makes at most."""
    rows = {row.key: row for row in predict}.values()
    return sum(1 + ITERATIONS * len(deployment.possible_tp(row)) for row in rows)


def validate(
    fit_rows: Sequence[Row],
    predict_rows: Sequence[Row],
    curves: Mapping[Key, Measurements],
    pool: Executor | None = None,
    without: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Validation:
    """Predicts rows from others.

    Each deployment (model, hardware, tp) is calibrated on its own rows of ``fit_rows``, or, where it has neither rows
    nor a curve, on those of other models of its kind on the same hardware, or else of the same model on other hardware.
    Rows whose text was not valid are left out, since nobody knows what was accepted in them. Of ``predict_rows`` only
    the description of each run is read, nothing that was measured.

    Args:
        without: A quantity whose effect is taken out of the model.

    Raises:
        InputError: A row of a model, GPU or gamma that is not known.
    """
    usable = [row for row in fit_rows if row.valid and row.throughput_tok_s is not None]
    for row in predict_rows:
        # Said before minutes of fitting rather than after them.
        deployment.shapes(row)
    found: dict[Key, list[Prediction]] = {}
    assumed: dict[Key, list[tuple[str, ...]]] = {}
    calibrations = []
    for key in dict.fromkeys(row.key for row in predict_rows):
        wanted = [row for row in predict_rows if row.key == key]
        curve = curves.get(key)
        rows, of = _rows(wanted[0], usable, curve)
        most = max(row.concurrency for row in (*wanted, *rows))
        space = parameters.space(
            curve=curve is not None,
            mixture=deployment.is_mixture(wanted[0]),
            rocm=deployment.is_rocm(wanted[0]),
            arms={row.label if row.arm == "fixed" else row.arm for row in rows},
        )
        if without is not None:
            space = space.without(without)
        tp, subject, values = _fit(wanted[0], rows, most, curve, space, pool, progress)
        filled = [deployment.fill(row, most, tp) for row in wanted]
        jobs = [Job(row, fields, values, curve) for row, fields in zip(wanted, filled, strict=True)]
        said = run_jobs([*jobs, *subject.jobs(values)], pool)
        progress()
        found[key] = said[: len(wanted)]
        assumed[key] = [fields.assumed for fields in filled]
        errors = [_error(row, prediction) for row, prediction in zip(rows, said[len(wanted) :], strict=True)]
        calibrations.append(
            Calibration(
                key,
                len(rows),
                of,
                curve is not None,
                tuple(space.free),
                values,
                sum(errors) / len(errors) if errors else float("nan"),
            )
        )
    ordered = [
        Predicted(row, found[row.key].pop(0), interpolated(row, usable), assumed[row.key].pop(0))
        for row in predict_rows
    ]
    return Validation(tuple(ordered), tuple(calibrations))


def _rows(wanted: Row, usable: Sequence[Row], curve: Measurements | None) -> tuple[list[Row], str]:
    """The rows that say most of a deployment, and whose they are where they are not its own."""
    own = [row for row in usable if row.key == wanted.key]
    if own:
        return own, ""
    # Of other deployments only the roofline is known, which a curve does not need.
    others = usable if curve is None else []
    for whose, alike in (
        (f"other models on {wanted.hardware}", deployment.is_neighbour),
        (f"{wanted.model} on other hardware", deployment.is_namesake),
    ):
        found = [row for row in others if alike(row, wanted)]
        if found:
            return found, whose
    return [], "nobody"


def _fit(
    wanted: Row,
    rows: Sequence[Row],
    most_clients: int,
    curve: Measurements | None,
    space: parameters.Space,
    pool: Executor | None,
    progress: Callable[[], None],
) -> tuple[int, Subject, dict[str, float]]:
    """Calibrates, and finds how many GPUs there are where nobody says: the fewest that explain the rows about as well.

    Returns:
        The number of GPUs, the rows as they were fitted, and all quantities by name.
    """
    fits = []
    for tp in deployment.possible_tp(wanted):
        subject = Subject(rows, [deployment.fill(row, most_clients, tp) for row in rows], curve)
        fits.append((tp, subject, fit(subject, space, pool, progress)))
    best = min(found.loss for *_, found in fits)
    tp, subject, found = next(each for each in fits if each[-1].loss <= best + AS_PLAUSIBLE)
    return tp, subject, found.values


def _error(row: Row, said: Prediction) -> float:
    assert row.throughput_tok_s is not None
    return abs(said.throughput_tok_s / row.throughput_tok_s - 1)
