"""The knee of an open loop: the highest rate at which requests still get their service levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_tuning.search.evaluation import in_order

# Share of the requests that must meet both SLOs.
REQUIRED = 0.95
# The knee is known to within this share of it.
PRECISION = 0.01
# The first step from the guess; each further one is twice as large.
STEP = 0.05
# The search ends at this many times the guess, and at its inverse.
RANGE = 64.0
# A run is measured for as many times of a request in the largest batch: a queue that grows shows.
WATCHED = 4
LEAST_MEASURED = 400


class Search(NamedTuple):
    """A knee to look for: of an arm, on the requests, acceptances and truth of a seed."""

    arm: Arm
    seed: int
    guess_per_s: float


def highest(attains: Callable[[float], bool], guess: float) -> float:
    """The highest rate that attains, by steps from ``guess`` that grow and then bisection.

    Args:
        attains: Whether a rate is low enough; true below some rate and false above it.

    Returns:
        A rate that attains, at most :data:`PRECISION` below one that does not; ``RANGE`` times the guess where that
        attains, 0 where not even its inverse does.
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
    """A first guess: requests that complete per second of the largest batch without speculation, by Little's law."""
    return scenario.replicas * scenario.largest_batch() / scenario.residence_s()


def at_rate(scenario: Scenario, rate_per_s: float, watched: float = WATCHED) -> Scenario:
    """The scenario's requests as an open loop, for as long as it takes to tell whether a queue grows.

    Args:
        watched: Length of the measured part, in times that a request spends in the largest batch.
    """
    loaded = scenario.with_workload(scenario.workload.with_rate(rate_per_s))
    measured = max(LEAST_MEASURED, math.ceil(watched * rate_per_s * scenario.residence_s()))
    run = scenario.run.model_copy(update={"requests": scenario.run.warmup_requests + measured})
    return loaded.model_copy(update={"run": run}).warmed()


def knee(scenario: Scenario, search: Search) -> float:
    """The knee of an arm on one seed, requests per second; 0 where it has none."""
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
    """The knee of every arm on every seed; columns arm, seed, rate_per_s.

    The first seed is looked for from the capacity of the deployment, the others from where it was found.

    Args:
        progress: Called with the number of knees found since the last call.
    """
    found: dict[str, list[float]] = {arm.name: [] for arm in arms}

    def look(searches: Iterable[Search]) -> None:
        searches = list(searches)
        for search, rate_per_s in zip(searches, in_order(knee, scenario, searches, executor), strict=True):
            found[search.arm.name].append(rate_per_s)
            progress(1)

    guess = capacity_per_s(scenario)
    look(Search(arm, seeds[0], guess) for arm in arms)
    guesses = {name: rates[0] or guess for name, rates in found.items()}
    look(Search(arm, seed, guesses[arm.name]) for arm in arms for seed in seeds[1:])
    return pd.DataFrame(
        [
            {"arm": name, "seed": seed, "rate_per_s": rate}
            for name, rates in found.items()
            for seed, rate in zip(seeds, rates, strict=True)
        ]
    )
