"""The simulator's predictions of cells, on a calibrated profile."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.sim2real.cells import RATE_PER_S, Cell

# Of the requests, measured and simulated.
SEED = 11
SEEDS = 8


class CellFigures(NamedTuple):
    """The figures of a cell, measured or predicted.

    Attributes:
        tpot_s: Mean over requests.
        accepted_length: Tokens per round, the target's own included; 1 without speculation.
        verify_length: Drafts verified per round; 0 without speculation.
    """

    throughput_tok_s: float
    tpot_s: float
    accepted_length: float
    verify_length: float


def predicted(scenario: Scenario, cell: Cell, arm: Arm, requests: int) -> CellFigures:
    """Simulate a cell as it is measured: all requests count, and the clock runs to the end of the last.

    Args:
        scenario: The calibrated profile with the experiment's traffic.
        cell: The load.
        arm: The serving mode.
        requests: Number of requests.
    """
    run = Run(requests=requests, warmup_requests=0, drain=True)
    loaded = scenario.with_workload(at(scenario.workload, cell)).model_copy(update={"run": run})
    # An open loop has the throughput of its arrivals, which must be the measured ones; a closed loop averages seeds.
    seeds = [SEED] if cell.clients is None else range(SEEDS)
    results = [simulate(loaded, arm, seed=seed) for seed in seeds]
    return CellFigures(
        fmean(result.throughput_tok_s for result in results),
        fmean(result.tpot.mean_s for result in results),
        fmean(result.accepted_length for result in results),
        fmean(result.verify_length for result in results),
    )


def at(workload: Workload, cell: Cell) -> Workload:
    """Return the traffic of a cell."""
    return workload.with_rate(RATE_PER_S) if cell.clients is None else workload.with_clients(cell.clients)


def spread(values: Sequence[float]) -> float:
    """Compute half the range of repeats, relative to their mean."""
    mean = fmean(values)
    return (max(values) - min(values)) / 2 / mean if mean else 0.0


def classes(names: Sequence[str], prompt_tokens: int, output_tokens: int) -> list[dict[str, Any]]:
    """Make the request classes of the experiment, with equal lengths and SLOs."""
    return [
        {
            "name": name,
            "domain": name,
            "prompt": {"kind": "fixed", "tokens": prompt_tokens},
            "output": {"kind": "fixed", "tokens": output_tokens},
            "max_new_tokens": output_tokens,
            "slo": {"ttft_s": 5.0, "tpot_s": 0.5},
        }
        for name in names
    ]
