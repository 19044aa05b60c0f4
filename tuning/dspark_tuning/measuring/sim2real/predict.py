"""What the simulator says of a cell, on a calibrated profile."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.sim2real.cells import RATE_PER_S, Cell
from dspark_tuning.search import baselines
from sglang_dspark.policy import AnyPolicy

# Names the requests that are sent.
SEED = 11
SEEDS = 8


class Figures(NamedTuple):
    """One cell, measured or predicted.

    Attributes:
        tpot_s: Mean over requests.
        accepted_length: Tokens a round, the target's own included; 1 without speculation.
        verify_length: Drafts verified a round; NaN where the server does not tell.
    """

    throughput_tok_s: float
    tpot_s: float
    accepted_length: float
    verify_length: float


def predicted(scenario: Scenario, cell: Cell, policy: AnyPolicy | None, requests: int) -> Figures:
    """Simulates a cell as it is measured: a number of requests, and the clock runs to the end of the last.

    Args:
        scenario: Of the calibrated profile, with the traffic's classes.
        policy: None is the server without speculation.
        requests: That are sent.
    """
    arm = baselines.plain(scenario) if policy is None else Arm(cell.policy, baselines.compact(scenario.server), policy)
    return predicted_arm(scenario, cell, arm, requests)


def predicted_arm(scenario: Scenario, cell: Cell, arm: Arm, requests: int) -> Figures:
    """The same for a way of serving that is not a cell's own."""
    run = Run(requests=requests, warmup_requests=0, drain=True)
    loaded = scenario.with_workload(at(scenario.workload, cell)).model_copy(update={"run": run})
    # An open loop has the throughput of its arrivals, so these must be the same; clients of a closed one only wait.
    seeds = [SEED] if cell.clients is None else range(SEEDS)
    found = [simulate(loaded, arm, seed=seed) for seed in seeds]
    return Figures(
        fmean(result.throughput_tok_s for result in found),
        fmean(result.tpot.mean_s for result in found),
        fmean(result.accepted_length for result in found),
        fmean(result.verify_length for result in found),
    )


def at(workload: Workload, cell: Cell) -> Workload:
    """The traffic of a cell."""
    return workload.with_rate(RATE_PER_S) if cell.clients is None else workload.with_clients(cell.clients)


def spread(values: Sequence[float]) -> float:
    """Half the range over the middle: what repeats differ by, either way."""
    middle = fmean(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def classes(names: Sequence[str], prompt_tokens: int, output_tokens: int) -> list[dict[str, Any]]:
    """The demo's traffic: every class of text alike."""
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
