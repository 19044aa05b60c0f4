"""Figures of a request trace."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.workloads.traces import TraceRows

_PEAK_S = 60.0
_BLOCK = 1 << 20


class Lengths(NamedTuple):
    """Distribution of a length in tokens."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


class ClassFigures(NamedTuple):
    """Requests of one class."""

    name: str
    share: float
    prompt: Lengths
    output: Lengths


class TraceFigures(NamedTuple):
    """Figures of a trace.

    Attributes:
        gap_cv: Coefficient of variation of the gaps between arrivals: 1 is Poisson, more is burstier.
        peak_per_s: Requests per second in the busiest minute; None for a trace that is shorter.
        hit_share: Share of the prompt tokens in the prefix cache, at most; None if the file does not say.
        classes: The classes of the file; empty if it has none.
    """

    requests: int
    span_s: float
    rate_per_s: float
    gap_cv: float
    peak_per_s: float | None
    prompt: Lengths
    output: Lengths
    hit_share: float | None
    classes: tuple[ClassFigures, ...]


def figures(rows: TraceRows) -> TraceFigures:
    """Figures of a trace."""
    peak = None
    if rows.span_s >= _PEAK_S:
        starts = np.searchsorted(rows.time_s, np.arange(0.0, rows.span_s, _PEAK_S))
        peak = float(np.diff(starts).max(initial=0) / _PEAK_S)
    classes = []
    if rows.slo_class is not None:
        for index, name in enumerate(rows.class_names):
            members = rows.slo_class == index
            if members.any():
                share = float(members.mean())
                classes.append(
                    ClassFigures(name, share, _lengths(rows.prompt[members]), _lengths(rows.output[members]))
                )
    return TraceFigures(
        len(rows.time_s),
        rows.span_s,
        rows.rate_per_s,
        gap_cv(rows.time_s),
        peak,
        _lengths(rows.prompt),
        _lengths(rows.output),
        None if rows.cached is None else float(rows.cached.sum(dtype=np.int64) / rows.prompt.sum(dtype=np.int64)),
        tuple(classes),
    )


def gap_cv(time_s: NDArray[np.float64]) -> float:
    """Coefficient of variation of the gaps between arrivals; NaN where there are fewer than two gaps."""
    gaps = len(time_s) - 1
    if gaps < 2 or time_s[-1] == time_s[0]:
        return float("nan")
    mean_s = (time_s[-1] - time_s[0]) / gaps
    # In blocks, since a trace may take much of the memory.
    squares = sum(
        float(np.sum((np.diff(time_s[first : first + _BLOCK + 1]) - mean_s) ** 2)) for first in range(0, gaps, _BLOCK)
    )
    return float(np.sqrt(squares / gaps) / mean_s)


def _lengths(tokens: NDArray[Any]) -> Lengths:
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
    return Lengths(float(tokens.mean()), p50, p90, p99, int(tokens.max()))
