"""Baseline of a prediction: interpolation between measured rows, without physics or parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dspark_tuning.measuring.validate.published_rows import PublishedRow


def interpolated(row: PublishedRow, fit: Sequence[PublishedRow]) -> float | None:
    """Throughput of a row, interpolated from rows of the same deployment, tokens per second.

    Log-log interpolation by concurrency; if the arm was not measured, also by gamma, where no speculation is gamma 0,
    and an adaptive arm is the best of the others. Constant extrapolation. None without measured rows.
    """
    arms: dict[str, list[PublishedRow]] = {}
    for other in fit:
        if other.key == row.key and other.throughput_tok_s is not None:
            arms.setdefault(other.label, []).append(other)
    if row.label in arms:
        return _at(arms[row.label], row.concurrency)
    at_load = {label: _at(rows, row.concurrency) for label, rows in arms.items()}
    if row.arm == "adaptive":
        return max(at_load.values(), default=None)
    by_gamma = sorted(
        (rows[0].gamma, at_load[label])
        for label, rows in arms.items()
        if rows[0].arm != "adaptive" and rows[0].gamma is not None
    )
    if row.gamma is None or not by_gamma:
        return None
    gammas, throughputs = zip(*by_gamma, strict=True)
    return float(np.exp(np.interp(row.gamma, gammas, np.log(throughputs))))


def _at(rows: Sequence[PublishedRow], concurrency: int) -> float:
    points = sorted((row.concurrency, row.throughput_tok_s or np.nan) for row in rows)
    loads, throughputs = np.log(np.array(points)).T
    return float(np.exp(np.interp(np.log(concurrency), loads, throughputs)))
