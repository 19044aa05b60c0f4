"""What a prediction must beat: interpolation between measured rows, which knows no physics and has no parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dspark_tuning.measuring.validate.published_rows import PublishedRow


def interpolated(row: PublishedRow, fit: Sequence[PublishedRow]) -> float | None:
    """Throughput of a row from the arms of ``fit`` of the same deployment, tokens per second.

    By concurrency on logarithms, and, where the arm itself was not measured, by gamma, no speculation being gamma 0; an
    adaptive arm is then taken for the best of the others. Outside what was measured the nearest row holds. None where
    nothing was.
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
    gammas, found = zip(*by_gamma, strict=True)
    return float(np.exp(np.interp(row.gamma, gammas, np.log(found))))


def _at(rows: Sequence[PublishedRow], concurrency: int) -> float:
    points = sorted((row.concurrency, row.throughput_tok_s or np.nan) for row in rows)
    loads, found = np.log(np.array(points)).T
    return float(np.exp(np.interp(np.log(concurrency), loads, found)))
