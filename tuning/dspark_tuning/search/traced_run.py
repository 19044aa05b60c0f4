"""One simulation looked at from within: what happened over time, and every latency's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_simulator.deployment import Truth
from dspark_simulator.histogram import quantile
from dspark_simulator.result import Result
from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.state import Record
from dspark_tuning.search.evaluation import Cell, at_load
from dspark_tuning.search.timeline import Timeline, timeline

# Closer where people look.
QUANTILES = (*(p / 100 for p in range(1, 100)), 0.995, 0.999)
LATENCIES = ("ttft", "tpot", "itl")

Floats = NDArray[np.float64]


class Look(NamedTuple):
    """A run from within.

    Attributes:
        latencies: By kind (TTFT, TPOT, ITL), float64 [len(QUANTILES)] seconds: the quantiles of the measured requests.
    """

    result: Result
    timeline: Timeline
    latencies: dict[str, Floats]


class Watched(NamedTuple):
    """A cell that was looked at; ``timeline`` and ``latencies`` as in :class:`Look`."""

    arm: str
    load: float
    seed: int
    timeline: Timeline
    latencies: dict[str, Floats]


def look(scenario: Scenario, arm: Arm, seed: int, truth: Truth | None = None) -> Look:
    """Simulates as :func:`dspark_simulator.simulation.simulate` does, and keeps what happened on the way."""
    log: list[StepLog] = []
    totals: list[Record] = []
    result = simulate(scenario, arm, seed=seed, truth=truth, log=log, totals=totals)
    memory = scenario.memory
    pool = memory.tokens(arm.server)
    counts = {kind: totals[0][kind].sum(axis=(0, 1)) for kind in LATENCIES}
    latencies = {kind: np.array([quantile(found, q) for q in QUANTILES]) for kind, found in counts.items()}
    steps = pd.DataFrame(log, columns=StepLog._fields)
    return Look(result, timeline(steps, pool * scenario.replicas), latencies)


def watch(scenario: Scenario, cell: Cell) -> Watched:
    """Simulates a cell again, the same run as :func:`dspark_tuning.search.evaluation.measure`."""
    found = look(at_load(scenario, cell), cell.arm, cell.seed, scenario.live.draw(cell.seed))
    return Watched(cell.arm.name, cell.load, cell.seed, found.timeline, found.latencies)


def shown(loads: Sequence[float]) -> list[float]:
    """The least, the middle and the highest of ``loads``."""
    ordered = sorted(set(loads))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})
