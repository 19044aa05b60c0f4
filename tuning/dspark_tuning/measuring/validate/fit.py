"""Calibration on published rows: maximum a posteriori estimates of the quantities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_tuning.measuring.validate.deployment import Prediction, predict
from dspark_tuning.measuring.validate.parameters import ParameterSpace
from dspark_tuning.measuring.validate.published_rows import PublishedRow
from dspark_tuning.measuring.validate.steps import Filled, Measured

Floats = NDArray[np.float64]

# Published repeats differ by 2 to 6 %; an accepted length averages over thousands of rounds.
THROUGHPUT_SPREAD = 0.05
LENGTH_SPREAD = 0.02
# Error in standard deviations beyond which the loss is linear, for outliers.
ROBUST = 1.5
# Finite difference in standard deviations of the prior, large because simulated acceptance is discrete.
STEP = 0.15
ITERATIONS = 6
LONGEST_MOVE = 1.5
SHARES = (1.0, 0.5, 0.25)


class Job(NamedTuple):
    """A row to predict in a worker process."""

    row: PublishedRow
    filled: Filled
    values: dict[str, float]
    measured: Measured

    def run(self) -> Prediction:
        """Simulate the row."""
        return predict(self.row, self.filled, self.values, self.measured)


class Subject(NamedTuple):
    """Rows of a fit: those of one deployment, or of similar deployments."""

    rows: Sequence[PublishedRow]
    filled: Sequence[Filled]
    measured: Measured

    def jobs(self, values: dict[str, float]) -> list[Job]:
        """Predictions of all rows with the given quantities."""
        return [Job(row, filled, values, self.measured) for row, filled in zip(self.rows, self.filled, strict=True)]


def run_jobs(jobs: Sequence[Job], pool: Executor | None) -> list[Prediction]:
    """Predictions in the order of the jobs."""
    return [job.run() for job in jobs] if pool is None else list(pool.map(Job.run, jobs, chunksize=4))


class Fit(NamedTuple):
    """Estimated quantities by name, and the negative log posterior."""

    values: dict[str, float]
    loss: float


def fit(
    subject: Subject, space: ParameterSpace, pool: Executor | None = None, progress: Callable[[], None] = lambda: None
) -> Fit:
    """Maximise prior x likelihood by Gauss-Newton steps on a pseudo-Huber loss.

    The residuals of a row are those of the logarithms of its throughput, TPOT, accepted length and step time, if given.

    Args:
        progress: Called after each of at most ``ITERATIONS`` steps.
    """
    names = space.free

    def errors(points: Sequence[Floats]) -> list[Floats]:
        every = [space.values(dict(zip(names, z, strict=True))) for z in points]
        predictions = run_jobs([job for values in every for job in subject.jobs(values)], pool)
        n = len(subject.rows)
        return [_errors(subject.rows, predictions[i * n : (i + 1) * n]) for i in range(len(points))]

    z = np.zeros(len(names))
    here = errors([z])[0]
    for _ in range(ITERATIONS if names else 0):
        moved = errors([z + STEP * unit for unit in np.eye(len(names))])
        slopes = np.array([(there - here) / STEP for there in moved]).T
        weight = 1 / np.sqrt(1 + (here / ROBUST) ** 2)
        hessian = slopes.T @ (weight[:, None] * slopes) + np.eye(len(names))
        move = np.clip(-np.linalg.solve(hessian, slopes.T @ (weight * here) + z), -LONGEST_MOVE, LONGEST_MOVE)
        candidates = [z + share * move for share in SHARES]
        tried = errors(candidates)
        losses = [_loss(error, candidate) for error, candidate in zip(tried, candidates, strict=True)]
        best = int(np.argmin(losses))
        gain = _loss(here, z) - losses[best]
        progress()
        if gain <= 0:
            break
        z, here = candidates[best], tried[best]
        if gain < 0.05:
            break
    return Fit(space.values(dict(zip(names, z, strict=True))), _loss(here, z))


def _errors(rows: Sequence[PublishedRow], predictions: Sequence[Prediction]) -> Floats:
    """Logarithmic errors in standard deviations of the measurement."""
    errors = []
    for row, prediction in zip(rows, predictions, strict=True):
        for measured, predicted, spread in (
            (row.throughput_tok_s, prediction.throughput_tok_s, THROUGHPUT_SPREAD),
            (row.tpot_s, prediction.tpot_s, THROUGHPUT_SPREAD),
            (row.accepted_length, prediction.accepted_length, max(LENGTH_SPREAD, row.accepted_spread or 0.0)),
            (row.step_s, prediction.step_s, THROUGHPUT_SPREAD),
        ):
            if measured is not None:
                errors.append(math.log(predicted / measured) / spread)
    return np.array(errors)


def _loss(errors: Floats, z: Floats) -> float:
    return float((ROBUST**2 * (np.sqrt(1 + (errors / ROBUST) ** 2) - 1)).sum() + 0.5 * z @ z)
