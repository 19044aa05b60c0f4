"""The knee of an open loop: the highest arrival rate with an SLO attainment of 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_tuning.search.evaluation import in_order

# Share of requests that must meet both SLOs.
REQUIRED = 0.95
# Relative precision of the knee.
PRECISION = 0.01
# First step from the guess; each further step doubles.
STEP = 0.05
# Bounds of the search: this factor of the guess and its inverse.
RANGE = 64.0
# Length of the measured window in residence times of a request in the largest batch, long enough to show a growing
# queue.
WINDOW = 4
LEAST_MEASURED = 400


class KneeSearch(NamedTuple):
    """KneeSearch for the knee of an arm with the requests, acceptances and truth of a seed."""

    arm: Arm
    seed: int
    guess_per_s: float


def highest(attains: Callable[[float], bool], guess: float) -> float:
    """Highest rate that attains, by growing steps from ``guess`` and then bisection.

    Args:
        attains: Whether a rate attains; true below the knee and false above.

    Returns:
        A rate that attains, at most :data:`PRECISION` below one that does not; about ``RANGE`` times the guess if that
        attains, 0 if not even its inverse does.
    """
    step = STEP
    low = high = guess
    if attains(guess):
        while attains(high := low * (1 + step)):
            if high > guess * RANGE:
                return high
            low, step = high, 2 * step
    else:
        while not attains(low := high / (1 + step)):
            if low < guess / RANGE:
                return 0.0
            high, step = low, 2 * step
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if attains(middle) else (low, middle)
    return low


def capacity_per_s(scenario: Scenario) -> float:
    """Initial guess of the knee: throughput of the largest batch without speculation by Little's law, requests/s."""
    return scenario.replicas * scenario.largest_batch() / scenario.residence_s()


def at_rate(scenario: Scenario, rate_per_s: float, window: float = WINDOW) -> Scenario:
    """The requests of the scenario as an open loop, measured long enough to show whether the queue grows.

    Args:
        window: Length of the measured window, in residence times of a request in the largest batch.
    """
    loaded = scenario.with_workload(scenario.workload.with_rate(rate_per_s))
    measured = max(LEAST_MEASURED, math.ceil(window * rate_per_s * scenario.residence_s()))
    run = scenario.run.model_copy(update={"requests": scenario.run.warmup_requests + measured})
    return loaded.model_copy(update={"run": run}).warmed()


def knee(scenario: Scenario, search: KneeSearch) -> float:
    """Knee of an arm on one seed, requests per second; 0 if it has none."""
    truth = scenario.live.draw(search.seed)

    def attains(rate_per_s: float) -> bool:
        at = at_rate(scenario, rate_per_s)
        return simulate(at, search.arm, seed=search.seed, truth=truth).attainment >= REQUIRED

    return highest(attains, search.guess_per_s)


def knees(
    scenario: Scenario,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Knee of every arm on every seed; columns arm, seed, rate_per_s.

    The search starts from the capacity of the deployment on the first seed, and from that knee on the others.

    Args:
        progress: Called with the number of knees completed since the last call.
    """
    by_arm: dict[str, list[float]] = {arm.name: [] for arm in arms}

    def find(searches: Iterable[KneeSearch]) -> None:
        searches = list(searches)
        for search, rate_per_s in zip(searches, in_order(knee, scenario, searches, executor), strict=True):
            by_arm[search.arm.name].append(rate_per_s)
            progress(1)

    guess = capacity_per_s(scenario)
    find(KneeSearch(arm, seeds[0], guess) for arm in arms)
    guesses = {name: rates[0] or guess for name, rates in by_arm.items()}
    find(KneeSearch(arm, seed, guesses[arm.name]) for arm in arms for seed in seeds[1:])
    return pd.DataFrame(
        [
            {"arm": name, "seed": seed, "rate_per_s": rate}
            for name, rates in by_arm.items()
            for seed, rate in zip(seeds, rates, strict=True)
        ]
    )
