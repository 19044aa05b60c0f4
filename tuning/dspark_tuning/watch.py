"""One simulation looked at from within: what happened over time, and every latency's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_simulator.histogram import quantile
from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import StepLog, simulate
from dspark_simulator.state import Record
from dspark_tuning.evaluate import Cell, at_load

# Parts of a timeline: what a narrow screen can show.
PARTS = 80
# Closer where people look.
QUANTILES = (*(p / 100 for p in range(1, 100)), 0.995, 0.999)
LATENCIES = ("ttft", "tpot", "itl")

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


class Watched(NamedTuple):
    """A run that was looked at.

    Attributes:
        latencies: By kind (TTFT, TPOT, ITL), float64 [len(QUANTILES)] seconds: the quantiles of the measured requests.
    """

    arm: str
    load: float
    seed: int
    timeline: Timeline
    latencies: dict[str, Floats]


def watch(scenario: Scenario, cell: Cell) -> Watched:
    """Simulates a cell again, the same run as :func:`dspark_tuning.evaluate.measure`."""
    log: list[StepLog] = []
    totals: list[Record] = []
    told = at_load(scenario, cell)
    simulate(told, cell.arm, seed=cell.seed, truth=scenario.live.draw(cell.seed), log=log, totals=totals)
    memory = scenario.memory
    pool = memory.kv_tokens if cell.arm.server.speculative else memory.kv_tokens_without_draft
    counts = {kind: totals[0][kind].sum(axis=(0, 1)) for kind in LATENCIES}
    latencies = {kind: np.array([quantile(found, q) for q in QUANTILES]) for kind, found in counts.items()}
    steps = pd.DataFrame(log, columns=StepLog._fields)
    return Watched(cell.arm.name, cell.load, cell.seed, timeline(steps, pool * scenario.replicas), latencies)


def timeline(steps: pd.DataFrame, kv_tokens: int) -> Timeline:
    """Means over equal parts of a run.

    Args:
        steps: Columns replica, start_s, step_s, running, queued, kv_tokens, decoded, verified: as :class:`StepLog`. A
            value holds for its step; between steps a replica is empty. What is not known is NaN.
        kv_tokens: Of all replicas.
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


def shown(loads: Sequence[float]) -> list[float]:
    """The least, the middle and the highest of ``loads``."""
    ordered = sorted(set(loads))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})
