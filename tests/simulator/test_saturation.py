"""Detection of a growing backlog: never below the capacity, always far above it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from dspark_simulator.result import PARTS, SIGNIFICANT, Result, grows
from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Arrivals, Closed, Gamma, Poisson, Uniform
from tests.simulator.deployment import a_class, a_scenario, step_cost

# Eight requests at a time, each 20 steps of 10 ms and its share of the prefills.
CAPACITY_PER_S = 35.6
SERVER = Server(speculative=False, max_running_requests=8)


def scenario(arrivals: Arrivals, requests: int, **fields: Any) -> Scenario:
    lengths = a_class(10, Uniform(min=1, max=39))
    return a_scenario(
        arrivals, lengths, requests=requests + 100, warmup=100, cost=step_cost(prefill_s=0.005), server=SERVER, **fields
    )


def run(arrivals: Arrivals, requests: int = 1000, seed: int = 0, **fields: Any) -> Result:
    return simulate(scenario(arrivals, requests, **fields), Arm("plain", SERVER), seed=seed)


def test_capacity_is_as_stated() -> None:
    result = run(Closed(clients=64), 4000)
    assert result.requests / result.window_s == pytest.approx(CAPACITY_PER_S, rel=0.02)


def test_level_is_students() -> None:
    assert pytest.approx(stats.t.ppf(0.9, PARTS - 1), abs=1e-3) == SIGNIFICANT


@pytest.mark.parametrize("burstiness", [1.0, 3.0])
@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_none_below_the_capacity(utilisation: float, burstiness: float) -> None:
    arrivals = Gamma(rate_per_s=utilisation * CAPACITY_PER_S, burstiness=burstiness)
    assert sum(run(arrivals, seed=seed).saturated for seed in range(50)) <= 1


@pytest.mark.parametrize(
    ("load", "requests", "least"), [(1.1, 1000, 9), (1.1, 4000, 9), (1.3, 1000, 10), (3.0, 200, 10)]
)
def test_overload_is_found(load: float, requests: int, least: int) -> None:
    found = [run(Poisson(rate_per_s=load * CAPACITY_PER_S), requests, seed) for seed in range(10)]
    assert sum(result.saturated for result in found) >= least
    # What arrives and is not served stays.
    growth = float(np.mean([result.backlog_growth for result in found]))
    assert growth == pytest.approx((1 - 1 / load) * requests, rel=0.2)


def test_longer_runs_of_an_overload_are_saturated_too_and_worse() -> None:
    short, long = (run(Poisson(rate_per_s=2 * CAPACITY_PER_S), n) for n in (500, 8000))
    assert short.saturated and long.saturated
    assert long.ttft.p50_s > 10 * short.ttft.p50_s


def test_a_closed_loop_never_is() -> None:
    assert not run(Closed(clients=500), 400).saturated


def test_a_burst_that_ends_is_not_growth() -> None:
    quiet = [3, 2, 4] * 100
    assert not grows([*quiet, *range(3, 80), *range(80, 3, -1), *quiet])
    assert not grows([*quiet, *range(3, 100, 7)])
    assert grows(range(300)) and not grows(range(PARTS)) and not grows([5] * 300)


def test_the_first_filling_of_a_server_is_not_growth() -> None:
    """A backlog that rises to 200 within one part of the run, followed by noise around that level."""
    level = 200 + np.random.default_rng(0).integers(-5, 6, 2000)
    assert not grows([*range(0, 200, 4), *level])
