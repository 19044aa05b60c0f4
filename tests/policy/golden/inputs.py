"""Random inputs for the verify planner, the same bytes on every machine: numpy only, no torch, no sglang."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tests.policy.golden.confidences import SHAPES, Confidence
from tests.policy.golden.draws import Draws, Integers
from tests.policy.golden.tables import Table, random_table

GROUPS = 500
CASES_PER_GROUP = 20
SEQUENCES = 360
STEPS = 24
MAX_REQUESTS = (8, 16, 32, 48, 80, 160, 256)

# Philox keys: one for each kind of input, so that adding to one leaves the others as they are.
_GROUP_KEY = 0x5D5
_SEQUENCE_KEY = 0x1A6


class Group(NamedTuple):
    """Cases that share a server.

    Attributes:
        gamma: Drafts a block.
        max_requests: Largest captured batch; no case has more requests.
        table: Fields of upstream's SpsCostTable or (with ``bias_seconds``) SpsAdditiveCostTable.
        lagged: Each case's confidences of an earlier step, float32 [R, gamma].
        current: Each case's confidences of the step itself, same shape.
    """

    gamma: int
    max_requests: int
    table: Table
    lagged: list[Confidence]
    current: list[Confidence]


class Step(NamedTuple):
    """What the planner gets in one step of a sequence.

    Attributes:
        slots: int64 [R], ``req_pool_indices``.
        confidence: float32 [R, gamma], from the relay.
        generation: int64 [R], each slot's generation when the relay recorded it.
        current_generation: int64 [R].
    """

    slots: Integers
    confidence: Confidence
    generation: Integers
    current_generation: Integers


class Sequence(NamedTuple):
    """Consecutive steps of one server whose requests come, go, wait and reuse slots."""

    gamma: int
    lag_steps: int
    relay_lag_steps: int
    pool: int
    table: Table
    steps: list[Step]

    @property
    def carry_steps(self) -> int:
        return max(self.lag_steps - self.relay_lag_steps, 0)


def groups() -> Iterator[Group]:
    """GROUPS servers of CASES_PER_GROUP cases each."""
    for index in range(GROUPS):
        draws = Draws(_GROUP_KEY, index)
        gamma = _gamma(draws)
        max_requests = draws.choice(MAX_REQUESTS)
        sizes = [_requests(draws, max_requests) for _ in range(CASES_PER_GROUP)]
        table = random_table(draws, typical=sorted(sizes)[CASES_PER_GROUP // 2], gamma=gamma, max_requests=max_requests)
        lagged, current = [], []
        for requests in sizes:
            shape = draws.choice(SHAPES)
            lagged.append(shape(draws, requests, gamma))
            current.append(shape(draws, requests, gamma))
        yield Group(gamma, max_requests, table, lagged, current)


def sequences() -> Iterator[Sequence]:
    """SEQUENCES servers of STEPS steps each, all combinations of lag 1..3 and relay lag 0..2 equally often."""
    for index in range(SEQUENCES):
        draws = Draws(_SEQUENCE_KEY, index)
        gamma = _gamma(draws)
        pool = draws.integer(3, 25)
        lag, relay_lag = 1 + index % 3, index // 3 % 3
        table = random_table(draws, typical=1 + pool // 2, gamma=gamma, max_requests=pool)
        yield Sequence(gamma, lag, relay_lag, pool, table, _steps(draws, pool, gamma, relay_lag))


def probed_requests(group: Group) -> tuple[int, ...]:
    """Running requests at which a group's cost table is looked up for every budget."""
    return (1, 2, 1 + group.max_requests // 3, group.max_requests)


def digest(all_groups: Iterable[Group], all_sequences: Iterable[Sequence]) -> str:
    """SHA-256 of inputs, by which a test knows that it has those which the golden file was made from."""
    sha = hashlib.sha256()
    for group in all_groups:
        sha.update(json.dumps([group.gamma, group.max_requests, group.table]).encode())
        for confidence in (*group.lagged, *group.current):
            sha.update(confidence.astype("<f4").tobytes())
    for sequence in all_sequences:
        sha.update(json.dumps([sequence.gamma, sequence.carry_steps, sequence.pool, sequence.table]).encode())
        for step in sequence.steps:
            sha.update(step.confidence.astype("<f4").tobytes())
            for integers in (step.slots, step.generation, step.current_generation):
                sha.update(integers.astype("<i8").tobytes())
    return sha.hexdigest()


def _gamma(draws: Draws) -> int:
    return 7 if draws.chance(0.6) else draws.integer(1, 16)


def _requests(draws: Draws, most: int) -> int:
    if draws.chance(0.04):
        return most
    u = draws.one()
    return 1 + int((most - 1) * u * u * u)


def _steps(draws: Draws, pool: int, gamma: int, relay_lag: int) -> list[Step]:
    """One server's steps. Slot 0 is the pool's padding row: never given out, so its generation stays 0."""
    generation = np.zeros(pool, np.int64)
    confidence = np.zeros((pool, gamma), np.float32)
    relayed = [(confidence.copy(), generation.copy()) for _ in range(relay_lag)]
    running: list[int] = []
    steps = []
    for _ in range(STEPS):
        running = [slot for slot in running if not draws.chance(0.1)]
        while len(running) < pool - 1 and draws.chance(0.6):
            # The slot freed last is given out next, so reuse is the rule.
            slot = next(slot for slot in range(pool - 1, 0, -1) if slot not in running)
            generation[slot] += 1
            running.append(slot)
        if not running:
            continue
        batch = [slot for slot in running if not draws.chance(0.15)] or running[:1]
        if draws.chance(0.1):
            batch.append(0)
        slots = np.array(batch, np.int64)[np.argsort(draws.unit(len(batch)), kind="stable")]
        confidence[slots] = draws.choice(SHAPES)(draws, len(slots), gamma)
        relayed.append((confidence.copy(), generation.copy()))
        relayed_confidence, relayed_generation = relayed.pop(0)
        steps.append(Step(slots, relayed_confidence[slots], relayed_generation[slots], generation[slots]))
    return steps
