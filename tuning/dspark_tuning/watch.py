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
from dspark_tuning.timeline import Timeline, timeline

# Closer where people look.
QUANTILES = (*(p / 100 for p in range(1, 100)), 0.995, 0.999)
LATENCIES = ("ttft", "tpot", "itl")

Floats = NDArray[np.float64]


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


def shown(loads: Sequence[float]) -> list[float]:
    """The least, the middle and the highest of ``loads``."""
    ordered = sorted(set(loads))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})
