"""The fall-back: once, beyond a given margin of the step times and acceptance that the artifact was tuned for."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_dspark.policy import Budget, Load
from sglang_dspark.serving.guard import LEAST_DRAFTS, MOST_REST_STEPS, PROBE_DRAFTS, WINDOW_STEPS, Guard
from sglang_dspark.serving.steps import Mode, StepResult

R, GAMMA, BELIEVED_S = 20, 4, 0.010
DRAFTS = np.full(R, GAMMA, np.int32)
HALVES = np.full((R, GAMMA), 0.5, np.float32)
PROMISED = 0.5 + 0.25 + 0.125 + 0.0625  # Drafts a request, by these confidences.
WINDOW = max(WINDOW_STEPS, LEAST_DRAFTS // (R * GAMMA)) + 1


@pytest.fixture
def live() -> Any:
    return SimpleNamespace(requested_mode=Mode.ON, resting=False, settings=SimpleNamespace(policy="policy.json"))


def step(
    truths: dict[str, list[float]] | None = None, version: int = 1, draft: bool = True, steers: bool = True
) -> Any:
    in_force = SimpleNamespace(
        version=version,
        bound=SimpleNamespace(believed_s=lambda requests, tokens: BELIEVED_S * (tokens == 160) * (requests == R)),
        artifact=SimpleNamespace(provenance=SimpleNamespace(truths=truths or {})),
    )
    load = Load(np.ones(R, np.int64), np.zeros(R, np.int64))
    return SimpleNamespace(steers=steers, in_force=in_force, load=load, budget=Budget(160, 80, draft))


def outcome(elapsed_s: float = BELIEVED_S, accepted: float = PROMISED, confidence: Any = HALVES) -> StepResult:
    """Accepted lengths whose mean over requests is ``accepted``."""
    total = round(accepted * R)
    lengths = np.full(R, total // R, np.int32)
    lengths[: total % R] += 1
    return StepResult(DRAFTS, lengths, confidence, 0.0, elapsed_s, 1)


def run(guard: Guard, now: Any, made: StepResult, steps: int = WINDOW) -> None:
    for _ in range(steps):
        guard(now, made)


@pytest.mark.parametrize(
    ("truths", "elapsed_s", "falls"),
    [
        ({}, 0.0149, False),
        ({}, 0.0151, True),
        ({}, 0.0067, False),
        ({}, 0.0066, True),
        # Tuned for 0.010 * 2 + 0.005 at most, and 0.010 * 1 + 0.001 at least; half as much again either way.
        ({"overhead_s": [0.001, 0.005], "slope": [1.0, 2.0]}, 0.0374, False),
        ({"overhead_s": [0.001, 0.005], "slope": [1.0, 2.0]}, 0.0376, True),
        ({"overhead_s": [0.001, 0.005], "slope": [1.0, 2.0]}, 0.0074, False),
        ({"overhead_s": [0.001, 0.005], "slope": [1.0, 2.0]}, 0.0073, True),
        ({"overhead_s": [0.005]}, 0.0224, False),
        ({"overhead_s": [0.005]}, 0.0226, True),
    ],
)
def test_step_time_outside_the_tuned_range_falls(live, truths, elapsed_s: float, falls: bool) -> None:
    guard = Guard(live, 0.5)
    run(guard, step(truths), outcome(elapsed_s))
    assert (guard.falls, live.requested_mode) == ((1, Mode.OFF) if falls else (0, Mode.ON))


@pytest.mark.parametrize(
    "truths", [{"slope": [0.0, 0.0]}, {"slope": []}, {"overhead_s": [float("nan")]}, {"slope": [1] * 3}]
)
def test_truths_of_any_shape_do_not_stop_the_scheduler(live, truths) -> None:
    run(Guard(live, 0.5), step(truths), outcome())


@pytest.mark.parametrize(("share", "falls"), [(1.0, 0), (1.45, 0), (1.55, 1), (0.70, 0)])
def test_more_acceptance_than_promised_falls(live, share: float, falls: int) -> None:
    guard = Guard(live, 0.5)
    run(guard, step(), outcome(accepted=share * PROMISED))
    assert guard.acceptance == pytest.approx(share, abs=0.03)
    assert (guard.falls, live.requested_mode) == (falls, Mode.OFF if falls else Mode.ON)
    assert not live.resting and guard.rests == 0


def serve(guard: Guard, live: Any, steps: int, accepted: float, requests: int = R) -> int:
    """Steps of which the drafter sits out those of a rest; returns how many drafted. Results come a step late."""
    drafted, late = 0, None
    made = outcome(accepted=accepted)
    few = StepResult(made.verified[:requests], made.accepted[-requests:], HALVES[:requests], 0.0, BELIEVED_S, 1)
    for _ in range(steps):
        now = step(draft=not live.resting)
        if late is not None:
            guard(late, few if late.budget.draft else few._replace(verified=few.verified * 0, confidence=None))
        drafted += now.budget.draft
        late = now
    return drafted


@pytest.mark.parametrize("accepted", [0.0, 0.63 * PROMISED])
def test_a_drafter_that_is_not_the_one_rests_and_is_tried_now_and_then(live, caplog, accepted: float) -> None:
    guard = Guard(live, 0.5)
    assert serve(guard, live, 100_000, accepted) < 400
    assert (guard.rests, guard.falls, live.requested_mode) == (1, 0, Mode.ON)
    assert len(caplog.records) == 1 and "policy.json" in caplog.text and "the drafter rests" in caplog.text


def test_one_request_alone_is_judged_too(live) -> None:
    guard = Guard(live, 0.5)
    assert serve(guard, live, 20_000, 0.0, requests=1) < LEAST_DRAFTS / GAMMA + 20 * (PROBE_DRAFTS / GAMMA + 2)
    assert guard.rests == 1


def test_a_drafter_that_is_right_again_comes_back(live, caplog) -> None:
    guard = Guard(live, 0.5)
    serve(guard, live, 3_000, 0.0)
    # The longest rest, and the probe after it.
    serve(guard, live, MOST_REST_STEPS + 50, PROMISED)
    assert serve(guard, live, 1_000, PROMISED) == 1_000
    assert (guard.rests, guard.falls, live.requested_mode, live.resting) == (1, 0, Mode.ON, False)
    assert "drafts as before" in caplog.records[-1].getMessage()


def test_one_that_comes_and_goes_rests_longer_each_time(live) -> None:
    guard = Guard(live, 0.5)
    rests, drafted = [], 0
    for _ in range(6):
        drafted += serve(guard, live, LEAST_DRAFTS // (R * GAMMA) + 2, 0.0)
        assert live.resting
        rested = 0
        while live.resting:
            serve(guard, live, 2, 0.0)
            rested += 1
        rests.append(rested)
        serve(guard, live, 1, 0.0)
    assert rests == sorted(rests) and rests[-1] > 8 * rests[0]


def test_a_new_policy_or_the_operators_word_ends_a_rest(live) -> None:
    guard = Guard(live, 0.5)
    serve(guard, live, 100, 0.0)
    assert live.resting
    guard(step(version=2), outcome())
    assert not live.resting
    run(guard, step(version=2), outcome(accepted=0.0))
    assert live.resting
    live.resting = False  # As ``LivePolicy.switch`` does.
    run(guard, step(version=2), outcome(), 3)
    assert not live.resting


def test_only_verified_drafts_are_promised(live) -> None:
    guard = Guard(live, 0.1)
    verified = np.zeros(R, np.int32)
    verified[:10] = 2
    accepted = np.zeros(R, np.int32)
    accepted[:7] = 1
    accepted[0] = 2
    # Ten requests of two drafts at 0.5 promise 7.5 drafts.
    run(guard, step(), StepResult(verified, accepted, HALVES, 0.0, BELIEVED_S, 1), LEAST_DRAFTS // 20)
    assert guard.acceptance == pytest.approx(8 / 7.5)


def test_it_falls_once_and_says_so_once(live, caplog) -> None:
    guard = Guard(live, 0.5)
    with caplog.at_level(logging.WARNING):
        run(guard, step(), outcome(elapsed_s=1.0), 10 * WINDOW)
    assert guard.falls == 1 and len(caplog.records) == 1
    assert "policy.json" in caplog.text and "Tune again" in caplog.text and "\n" not in caplog.records[0].getMessage()
    live.requested_mode = Mode.ON
    run(guard, step(), outcome(elapsed_s=1.0), WINDOW)
    assert guard.falls == 2


def test_a_few_slow_steps_are_not_a_window(live) -> None:
    guard = Guard(live, 0.5)
    for i in range(4 * WINDOW_STEPS):
        guard(step(), outcome(elapsed_s=1.0 if i % 3 == 0 else BELIEVED_S))
    assert guard.falls == 0


def test_resting_unsteered_and_interrupted_steps_are_not_judged(live) -> None:
    guard = Guard(live, 0.5)
    run(guard, step(draft=False), outcome(elapsed_s=1.0, confidence=None), 3 * WINDOW)
    run(guard, step(steers=False), outcome(elapsed_s=1.0, accepted=0.0), 3 * WINDOW)
    run(guard, step(), outcome(elapsed_s=float("nan")), 3 * WINDOW)
    assert guard.falls == 0


def test_a_new_policy_is_not_judged_by_the_steps_of_the_old(live) -> None:
    guard = Guard(live, 0.5)
    run(guard, step(), outcome(elapsed_s=1.0), WINDOW_STEPS - 1)
    run(guard, step(version=2), outcome(), WINDOW_STEPS - 1)
    guard(step(version=2), outcome(elapsed_s=1.0))
    assert guard.falls == 0
