"""Scores of predictions: errors, crossovers of arms, and their order."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from dspark_tuning.measuring.validate.published_rows import PublishedRow
from dspark_tuning.measuring.validate.validation import Predicted


class Errors(NamedTuple):
    """Errors of throughput and TPOT, as fractions.

    Attributes:
        rows: Number of measured rows with valid text.
        mape: Mean absolute error.
        worst: Largest absolute error.
        tpot_mape: Mean absolute error of the median TPOT; NaN if not measured.
        baseline_mape: Mean absolute error of interpolation on the rows where it is defined.
    """

    rows: int
    mape: float
    worst: float
    tpot_mape: float
    baseline_mape: float


class Crossover(NamedTuple):
    """Concurrency at which ``ahead`` falls behind ``behind``, measured and predicted; None if never on the grid.

    Attributes:
        within: Whether the two are at most one step of the grid apart.
    """

    model: str
    hardware: str
    ahead: str
    behind: str
    measured: int | None
    predicted: int | None
    within: bool


class Score(NamedTuple):
    """Scores of predictions.

    Attributes:
        by_arm: Errors by name of the arm.
        crossovers: Crossovers of every predicted arm with the other arms of its deployment, measured or predicted.
        order: Mean Spearman correlation of the throughput of arms over deployments and concurrencies; NaN without two
            arms.
    """

    overall: Errors
    by_arm: dict[str, Errors]
    crossovers: tuple[Crossover, ...]
    order: float


def score(predicted: Sequence[Predicted], fit: Sequence[PublishedRow]) -> Score:
    """Score predictions, with the measured rows of ``fit`` as the other arms."""
    scored = [p for p in predicted if p.row.valid and p.row.throughput_tok_s is not None]
    arms = dict.fromkeys(p.row.label for p in scored)
    lines = _lines(scored, fit)
    return Score(
        _errors(scored),
        {arm: _errors([p for p in scored if p.row.label == arm]) for arm in arms},
        tuple(_crossovers(lines)),
        _order(lines),
    )


def _errors(scored: Sequence[Predicted]) -> Errors:
    errors = [_error(p.said.throughput_tok_s, p.row.throughput_tok_s) for p in scored]
    tpots = [_error(p.said.tpot_s, p.row.tpot_s) for p in scored if p.row.tpot_s is not None]
    baseline = [_error(p.baseline, p.row.throughput_tok_s) for p in scored if p.baseline is not None]
    return Errors(len(scored), _mean(errors), max(errors, default=math.nan), _mean(tpots), _mean(baseline))


def _error(said: float, measured: float | None) -> float:
    assert measured is not None
    return abs(said / measured - 1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


@dataclass
class _Line:
    """Throughput of an arm by concurrency, measured and predicted; equal where the arm was not predicted."""

    measured: dict[int, float] = field(default_factory=dict)
    said: dict[int, float] = field(default_factory=dict)
    predicted: bool = False


Group = tuple[str, str, int | None, int | None]
Lines = Mapping[Group, Mapping[str, _Line]]


def _lines(scored: Sequence[Predicted], fit: Sequence[PublishedRow]) -> Lines:
    lines: defaultdict[Group, defaultdict[str, _Line]] = defaultdict(lambda: defaultdict(_Line))
    given = [(row, row.throughput_tok_s, False) for row in fit if row.valid]
    for row, said, predicted in (*given, *((p.row, p.said.throughput_tok_s, True) for p in scored)):
        if row.throughput_tok_s is not None and said is not None:
            line = lines[(*row.key, row.capture_tokens)][row.label]
            line.measured[row.concurrency], line.said[row.concurrency] = row.throughput_tok_s, said
            line.predicted |= predicted
    return lines


def _crossovers(lines: Lines) -> Iterable[Crossover]:
    for (model, hardware, *_), arms in lines.items():
        for (one, a), (other, b) in itertools.combinations(arms.items(), 2):
            grid = sorted(a.measured.keys() & b.measured.keys())
            if len(grid) < 2 or not (a.predicted or b.predicted):
                continue
            ahead, behind = (one, other) if a.measured[grid[0]] >= b.measured[grid[0]] else (other, one)
            measured = _falls(arms[ahead].measured, arms[behind].measured, grid)
            predicted = _falls(arms[ahead].said, arms[behind].said, grid)
            if measured < len(grid) or predicted < len(grid):
                # An arm that stays ahead to the end may fall behind on a step beyond the grid, named None.
                places = [*grid, None]
                within = abs(measured - predicted) <= 1
                yield Crossover(model, hardware, ahead, behind, places[measured], places[predicted], within)


def _falls(ahead: Mapping[int, float], behind: Mapping[int, float], grid: Sequence[int]) -> int:
    """Index of the first concurrency at which ``ahead`` is behind, or the length of the grid."""
    return next((i for i, load in enumerate(grid) if ahead[load] < behind[load]), len(grid))


def _order(lines: Lines) -> float:
    """Mean rank correlation of the arms of a deployment at one concurrency, where at least one is predicted."""
    correlations = []
    for arms in lines.values():
        for load in sorted({load for line in arms.values() for load in line.measured}):
            here = [line for line in arms.values() if load in line.measured]
            measured = [line.measured[load] for line in here]
            said = [line.said[load] for line in here]
            # Equal arms have no order.
            if any(line.predicted for line in here) and len(set(measured)) > 1 and len(set(said)) > 1:
                correlations.append(float(spearmanr(measured, said).statistic))
    return _mean(correlations)
