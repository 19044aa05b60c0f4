"""Timelines: a run in equal intervals, from its steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Fits a narrow screen.
PARTS = 80

Floats = NDArray[np.float64]


class Timeline(NamedTuple):
    """Means over equal intervals of a run, float64 [intervals] each; NaN where unknown.

    Attributes:
        at_s: Midpoints of the intervals, from the start of the run.
        running: Running requests of all replicas.
        queued: Queued requests of all replicas.
        verify_length: Drafts verified per round and request.
        kv_share: Used share of the KV pools.
    """

    at_s: Floats
    running: Floats
    queued: Floats
    verify_length: Floats
    kv_share: Floats


def timeline(steps: pd.DataFrame, kv_tokens: float) -> Timeline:
    """Average the steps of a run over equal intervals.

    Args:
        steps: Columns replica, start_s, step_s, running, queued, kv_tokens, decoded, verified, as in :class:`StepLog`;
            NaN where unknown. A value holds during its step; between steps a replica is empty.
        kv_tokens: Size of the KV pools of all replicas together.
    """
    ends_s = steps["start_s"] + steps["step_s"]
    edges = np.linspace(float(steps["start_s"].min()), float(ends_s.max()), PARTS + 1)
    width_s = edges[1] - edges[0]

    def total(amounts: pd.Series) -> Floats:
        """Sum of ``amounts`` in each interval, each spread evenly over its step."""
        sums = np.zeros(PARTS)
        for _, part in steps.groupby("replica"):
            place = part.index
            at_s = np.column_stack([part["start_s"], ends_s[place]]).ravel()
            until = np.repeat(np.concatenate([[0.0], np.cumsum(amounts[place])]), 2)[1:-1]
            sums += np.diff(np.interp(edges, at_s, until))
        return sums

    def mean(field: str, of: float = 1.0) -> Floats:
        means: Floats = total(steps[field] * steps["step_s"]) / (width_s * of)
        return means

    at_s = (edges[1:] + edges[:-1]) / 2 - edges[0]
    rounds = total(steps["decoded"])
    verified = np.divide(total(steps["verified"]), rounds, out=np.full(PARTS, np.nan), where=rounds > 0)
    return Timeline(at_s, mean("running"), mean("queued"), verified, mean("kv_tokens", kv_tokens))
