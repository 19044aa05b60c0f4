"""A run over time, from its steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# What a narrow screen can show.
PARTS = 80

Floats = NDArray[np.float64]


class Timeline(NamedTuple):
    """A run over time, float64 [parts] each: means over equal parts of it, NaN where nothing is known.

    Attributes:
        at_s: Middles of the parts, from the start of the run.
        running: Requests that decode, over all replicas.
        queued: Requests that wait, over all replicas.
        verify_length: Drafts verified a round and request.
        kv_share: Used part of the KV pools.
    """

    at_s: Floats
    running: Floats
    queued: Floats
    verify_length: Floats
    kv_share: Floats


def timeline(steps: pd.DataFrame, kv_tokens: float) -> Timeline:
    """Means over equal parts of a run.

    Args:
        steps: Columns replica, start_s, step_s, running, queued, kv_tokens, decoded, verified: as :class:`StepLog`. A
            value holds for its step; between steps a replica is empty. What is not known is NaN.
        kv_tokens: Of the pools of all replicas.
    """
    ends_s = steps["start_s"] + steps["step_s"]
    edges = np.linspace(float(steps["start_s"].min()), float(ends_s.max()), PARTS + 1)
    width_s = edges[1] - edges[0]

    def total(amounts: pd.Series) -> Floats:
        """What falls into each part, each amount spread evenly over its step."""
        found = np.zeros(PARTS)
        for _, part in steps.groupby("replica"):
            place = part.index
            at_s = np.column_stack([part["start_s"], ends_s[place]]).ravel()
            until = np.repeat(np.concatenate([[0.0], np.cumsum(amounts[place])]), 2)[1:-1]
            found += np.diff(np.interp(edges, at_s, until))
        return found

    def mean(field: str, of: float = 1.0) -> Floats:
        found: Floats = total(steps[field] * steps["step_s"]) / (width_s * of)
        return found

    at_s = (edges[1:] + edges[:-1]) / 2 - edges[0]
    rounds = total(steps["decoded"])
    verified = np.divide(total(steps["verified"]), rounds, out=np.full(PARTS, np.nan), where=rounds > 0)
    return Timeline(at_s, mean("running"), mean("queued"), verified, mean("kv_tokens", kv_tokens))
