"""What a prediction must beat: interpolation between measured rows, which knows no physics and has no parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dspark_tuning.validate.rows import Row


def interpolated(row: Row, fit: Sequence[Row]) -> float | None:
    """Throughput of a row from the arms of ``fit`` of the same deployment, tokens per second.

    By concurrency on logarithms, and then by gamma, no speculation being gamma 0; an adaptive arm is taken for the best
    fixed one, itself included. Outside what was measured the nearest row holds. None where there is none.
    """
    arms: dict[int, list[Row]] = {}
    for other in fit:
        if other.key == row.key and other.arm != "adaptive" and other.throughput_tok_s is not None:
            arms.setdefault(other.gamma or 0, []).append(other)
    if not arms:
        return None
    gammas = sorted(arms)
    at_load = [_at(arms[gamma], row.concurrency) for gamma in gammas]
    if row.arm == "adaptive":
        return max(at_load)
    return float(np.exp(np.interp(row.gamma or 0, gammas, np.log(at_load))))


def _at(rows: Sequence[Row], concurrency: int) -> float:
    points = sorted((row.concurrency, row.throughput_tok_s or np.nan) for row in rows)
    loads, found = np.log(np.array(points)).T
    return float(np.exp(np.interp(np.log(concurrency), loads, found)))
