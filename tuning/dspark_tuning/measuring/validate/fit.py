"""Calibration on published rows: the most plausible quantities given priors and measurements."""

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
# Beyond so many spreads an error counts by its size and no longer by its square: some rows are simply odd.
ROBUST = 1.5
# Finite difference in standard deviations: simulated acceptance is made of whole tokens.
STEP = 0.15
ITERATIONS = 6
LONGEST_MOVE = 1.5
SHARES = (1.0, 0.5, 0.25)


class Job(NamedTuple):
    """One row to predict, as it travels to another process."""

    row: PublishedRow
    filled: Filled
    values: dict[str, float]
    measured: Measured

    def run(self) -> Prediction:
        return predict(self.row, self.filled, self.values, self.measured)


class Subject(NamedTuple):
    """What a fit is about: rows of one deployment, or of one kind of hardware."""

    rows: Sequence[PublishedRow]
    filled: Sequence[Filled]
    measured: Measured

    def jobs(self, values: dict[str, float]) -> list[Job]:
        return [Job(row, filled, values, self.measured) for row, filled in zip(self.rows, self.filled, strict=True)]


def run_jobs(jobs: Sequence[Job], pool: Executor | None) -> list[Prediction]:
    """Predictions in the order of the jobs."""
    return [job.run() for job in jobs] if pool is None else list(pool.map(Job.run, jobs, chunksize=4))


class Fit(NamedTuple):
    """The most plausible quantities by name, and how implausible they and the measurements are together."""

    values: dict[str, float]
    loss: float


def fit(
    subject: Subject, space: ParameterSpace, pool: Executor | None = None, progress: Callable[[], None] = lambda: None
) -> Fit:
    """The quantities that maximise prior x likelihood, by Gauss-Newton steps on a pseudo-Huber loss.

    Rows count by the logarithms of their throughput, TPOT, accepted length and step time, as far as these are given.

    Args:
        progress: Called after each of at most ``ITERATIONS`` steps.
    """
    names = space.free

    def errors(points: Sequence[Floats]) -> list[Floats]:
        every = [space.values(dict(zip(names, z, strict=True))) for z in points]
        found = run_jobs([job for values in every for job in subject.jobs(values)], pool)
        n = len(subject.rows)
        return [_errors(subject.rows, found[i * n : (i + 1) * n]) for i in range(len(points))]

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


def _errors(rows: Sequence[PublishedRow], found: Sequence[Prediction]) -> Floats:
    """Errors in spreads of their measurement."""
    errors = []
    for row, said in zip(rows, found, strict=True):
        for measured, predicted, spread in (
            (row.throughput_tok_s, said.throughput_tok_s, THROUGHPUT_SPREAD),
            (row.tpot_s, said.tpot_s, THROUGHPUT_SPREAD),
            (row.accepted_length, said.accepted_length, max(LENGTH_SPREAD, row.accepted_spread or 0.0)),
            (row.step_s, said.step_s, THROUGHPUT_SPREAD),
        ):
            if measured is not None:
                errors.append(math.log(predicted / measured) / spread)
    return np.array(errors)


def _loss(errors: Floats, z: Floats) -> float:
    return float((ROBUST**2 * (np.sqrt(1 + (errors / ROBUST) ** 2) - 1)).sum() + 0.5 * z @ z)
