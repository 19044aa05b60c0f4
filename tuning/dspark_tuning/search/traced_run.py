"""Traced simulations: a timeline and the distributions of the latencies."""

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

# Denser quantiles in the tail.
QUANTILES = (*(p / 100 for p in range(1, 100)), 0.995, 0.999)
LATENCIES = ("ttft", "tpot", "itl")

Floats = NDArray[np.float64]


class TracedResult(NamedTuple):
    """Result of a simulation with its timeline and latency distributions.

    Attributes:
        latencies: Quantiles over the measured requests by kind (TTFT, TPOT, ITL), float64 [len(QUANTILES)] seconds.
    """

    result: Result
    timeline: Timeline
    latencies: dict[str, Floats]


class TracedCell(NamedTuple):
    """A traced cell; ``timeline`` and ``latencies`` as in :class:`TracedResult`."""

    arm: str
    load: float
    seed: int
    timeline: Timeline
    latencies: dict[str, Floats]


def trace(scenario: Scenario, arm: Arm, seed: int, truth: Truth | None = None) -> TracedResult:
    """Run :func:`dspark_simulator.simulation.simulate` and keep the timeline and the latency distributions."""
    log: list[StepLog] = []
    totals: list[Record] = []
    result = simulate(scenario, arm, seed=seed, truth=truth, log=log, totals=totals)
    memory = scenario.memory
    pool = memory.tokens(arm.server)
    counts = {kind: totals[0][kind].sum(axis=(0, 1)) for kind in LATENCIES}
    latencies = {kind: np.array([quantile(histogram, q) for q in QUANTILES]) for kind, histogram in counts.items()}
    steps = pd.DataFrame(log, columns=StepLog._fields)
    return TracedResult(result, timeline(steps, pool * scenario.replicas), latencies)


def trace_cell(scenario: Scenario, cell: Cell) -> TracedCell:
    """Trace a cell: the same run as :func:`dspark_tuning.search.evaluation.measure`."""
    run = trace(at_load(scenario, cell), cell.arm, cell.seed, scenario.live.draw(cell.seed))
    return TracedCell(cell.arm.name, cell.load, cell.seed, run.timeline, run.latencies)


def sample_loads(loads: Sequence[float]) -> list[float]:
    """The lowest, the middle and the highest of ``loads``."""
    ordered = sorted(set(loads))
    return sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]})
