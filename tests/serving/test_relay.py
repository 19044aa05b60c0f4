"""SGLang's relay of confidences, with its ring and its events, on a stand-in for the GPU that is late at will.

Each confidence names the request and the step that it is of, so that a budget shows whose it was made from.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_dspark.policy import Threshold, budget
from sglang_dspark.serving.bound_rule import BoundRule, Lagged
from sglang_dspark.serving.evidence import offline
from tests.serving.device import Device
from tests.serving.harness import Driver

GAMMA, SLOTS, RESTS_ABOVE = 4, 9, 4
POLICY = Threshold(running=(1,), theta=(0.3,), off_above=RESTS_ABOVE)
UIDS, STEPS = 512, 1024
RESTED = -1
"""In place of a request: the last step of the rest that followed."""


class Moment(NamedTuple):
    """What happens around one decode step.

    Attributes:
        leave: Running requests that end before it, by place.
        arrive: Requests that are given a slot before it.
        start: Of those that have a slot and do not run yet, how many begin to; the others' prompts take longer.
        sit_out: Running requests that are not in the step, by place.
        device: Pieces of work that the forward and the copy stream get done after it.
    """

    leave: frozenset[int]
    arrive: int
    start: int
    sit_out: frozenset[int]
    device: tuple[int, int]


PLACES = st.frozensets(st.integers(0, SLOTS - 2), max_size=3)
MOMENTS = st.builds(
    Moment, PLACES, st.integers(0, 3), st.integers(0, 4), PLACES, st.tuples(st.integers(0, 12), st.integers(0, 9))
)


class Server:
    """A scheduler's side of the request pool: slots are given out last in, first out, as SGLang does."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.free = list(range(1, SLOTS))
        self.prefilling: list[tuple[int, int]] = []
        self.running: list[tuple[int, int]] = []
        self.uids = 0

    def turn(self, moment: Moment) -> list[tuple[int, int]]:
        """The slot and name of each request in the step."""
        gone = [request for i, request in enumerate(self.running) if i in moment.leave]
        self.running = [request for request in self.running if request not in gone]
        self.free += [slot for slot, _ in gone]
        for _ in range(min(moment.arrive, len(self.free))):
            slot = self.free.pop()
            self.pool.req_generation[slot] += 1
            self.uids += 1
            self.prefilling.append((slot, self.uids))
        started, self.prefilling = self.prefilling[: moment.start], self.prefilling[moment.start :]
        self.running += started
        return [request for i, request in enumerate(self.running) if i not in moment.sit_out]


def named(requests: list[tuple[int, int]], step: int) -> np.ndarray:
    """float32 [R, GAMMA]: confidences that say whose and when, and pass or fail by whose."""
    rows = [[uid / UIDS, step / STEPS, 0.5 + uid % 2 / 2, 1.0] for _, uid in requests]
    return np.array(rows, np.float32).reshape(-1, GAMMA)


GPU = pytest.mark.parametrize("gpu", [True, False], ids=["ring", "without a ring"])


@GPU
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments=st.lists(MOMENTS, min_size=4, max_size=25))
def test_a_budget_is_made_of_requests_own_confidences_or_of_none(hooked, gpu: bool, moments: list[Moment]) -> None:
    drive(gpu, moments)


@GPU
def test_traffic_meets_all_that_can_happen(hooked, gpu: bool) -> None:
    draw = np.random.default_rng(3)
    moments = [
        Moment(
            frozenset(draw.integers(0, 16, 2).tolist()),
            int(draw.integers(0, 3)),
            int(draw.integers(0, 2)),
            frozenset(draw.integers(0, 12, 1).tolist()),
            (int(draw.integers(0, 14)), int(draw.integers(0, 10))),
        )
        for _ in range(400)
    ]
    met = drive(gpu, moments)
    assert min(met["rest"], met["draft"], met["own"], met["not seen"]) > 30
    assert met["seen before a rest"] > 5
    assert (met["late"] > 5) == (met["since"] > 5) == gpu


def drive(gpu: bool, moments: list[Moment]) -> Counter[str]:
    """Checks every budget of a planner that is driven through ``moments``; counts what was met."""
    from sglang.srt.managers import overlap_utils

    device = Device()
    with (
        offline.planner(gamma=GAMMA, slots=SLOTS, max_requests=SLOTS) as planner,
        mock.patch.object(overlap_utils, "_is_cuda", gpu),
        mock.patch.object(overlap_utils, "torch", device),
    ):
        pool = planner.model_runner.req_to_token_pool
        pool.req_generation.zero_()
        spec = SimpleNamespace(is_some=lambda: True)
        relay = overlap_utils.FutureMap(torch.device("cpu"), spec, pool, needs_confidence_relay=True)
        live = offline.attach(planner, offline.artifact(POLICY, GAMMA))
        driver, server, seen = Driver(planner, True), Server(pool), []
        survival = BoundRule.survival

        def spy(bound: BoundRule, lagged: Lagged | None, requests: int) -> Any:
            seen.append(lagged)
            return survival(bound, lagged, requests)

        met: Counter[str] = Counter()
        drafted: list[dict[int, int]] = []  # Of each step that drafted: its number by request.
        with mock.patch.object(BoundRule, "survival", spy):
            for number, moment in enumerate(moments):
                requests = server.turn(moment)
                if not requests:
                    continue
                slots = np.array([slot for slot, _ in requests])
                seen.clear()
                made = driver.step(slots, named(requests, number), future_map=relay)
                (lagged,) = seen
                survivals = np.ones((len(requests), GAMMA), np.float32)
                if lagged is None:
                    met["late"] += len(drafted) > 2
                else:
                    met.update(check_owners(lagged, requests, drafted, 2 if gpu else 1, survivals))
                assert made.step is not None and made.step.budget == budget(
                    live.policy.in_force.bound.rule, survivals, made.step.load
                )
                met["draft" if made.step.drafted else "rest"] += 1
                if made.step.drafted:
                    drafted.append({uid: number for _, uid in requests})
                elif drafted:
                    drafted[-1] = drafted[-1] | {RESTED: number}
                device.run(moment.device if gpu else (99, 99))
    return met


def check_owners(
    lagged: Lagged, requests: list[tuple[int, int]], drafted: list[dict[int, int]], lag: int, survivals: np.ndarray
) -> list[str]:
    """Each row is its request's own of ``lag`` drafting steps ago or of a later one, or does not count.

    Args:
        survivals: Filled in with what counts.
    """
    by_then = {uid: number for step in drafted[: len(drafted) - lag + 1] for uid, number in step.items()}
    met = []
    for r, (_, uid) in enumerate(requests):
        row = lagged.confidence[lagged.rows[r]]
        counts = lagged.current_generation[r] >= 1 and lagged.generation[lagged.rows[r]] == lagged.current_generation[r]
        assert counts == (uid in by_then), "a request counts as seen exactly when it had drafted by then"
        met.append("own" if counts else "not seen")
        if counts:
            # The copy may be late, and then holds what was drafted since.
            possible = [step[uid] for step in drafted if uid in step and step[uid] >= by_then[uid]]
            assert row[0] == np.float32(uid / UIDS), "another request's confidence"
            number = round(float(row[1]) * STEPS)
            assert number in possible
            survivals[r] = np.cumprod(row, dtype=np.float64)
            met += ["since"] * (number > by_then[uid])
            met += ["seen before a rest"] * (by_then.get(RESTED, 0) > number)
    return met
