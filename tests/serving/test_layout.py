"""SGLang's own layout code: no step's lengths exceed the graph that it replays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sglang_dspark.policy import EagerTimes, Fixed, Threshold, lengths, sglang_tiers, survival
from sglang_dspark.serving import hooks, step_hooks
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.settings import Settings
from sglang_dspark.serving.steps import Geometry
from tests.serving.harness import FAMILIES, Driver, Result, random_confidence

GAMMA = 5


def check(made: Result, tiers: list[int]) -> None:
    """A step in a captured graph: its tier is the decision's, and it holds the lengths."""
    decided = made.step.budget
    assert made.layout.graph_num_tokens in tiers
    assert made.layout.graph_num_tokens == decided.tier
    assert sum(made.lens) <= made.layout.graph_num_tokens
    assert min(made.lens) >= 1 and max(made.lens) <= GAMMA + 1


def random_step(draw: np.random.Generator, most: int) -> dict[str, Any]:
    n = int(draw.integers(1, most + 1))
    relayed = None
    if draw.random() < 0.8:
        relayed = (random_confidence(draw, n, GAMMA), draw.integers(0, 3, n))
    return {
        "slots": draw.permutation(np.arange(1, 60))[:n],
        "confidence": random_confidence(draw, n, GAMMA),
        "relayed": relayed,
        "context": draw.integers(1, 20_000, n),
        "classes": [["default", "fast", "unknown", None][k] for k in draw.integers(0, 4, n)],
    }


def random_tiers(draw: np.random.Generator, largest: int) -> list[int]:
    """Sizes as SGLang captures them, or any others that end at its last."""
    tiers = sglang_tiers(largest, GAMMA)
    if draw.random() < 0.5:
        kept = draw.permutation(np.arange(1, tiers[-1]))[: draw.integers(1, 12)]
        tiers = np.unique(np.append(kept, tiers[-1]))
    return tiers.tolist()


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_lengths_fit_the_tier_that_was_decided(hooked, policy, overlap: bool) -> None:
    draw = np.random.default_rng(5)
    for _ in range(12):
        largest = int(draw.integers(1, 41))
        tiers = random_tiers(draw, largest)
        with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=largest, overlap=overlap) as planner:
            assert planner._is_verify_all
            offline.attach(planner, offline.artifact(policy, GAMMA, classes=("default", "fast")))
            assert not planner._is_verify_all
            driver = Driver(planner, overlap)
            for _ in range(12):
                step = random_step(draw, largest)
                made = driver.step(**step)
                check(made, tiers)
                if made.step.budget.draft:
                    rule, load, cap = made.step.in_force.bound.rule, made.step.load, made.step.budget.cap
                    expected = lengths(rule, survival(step["confidence"]), load, cap) + 1
                    assert made.lens == expected.tolist()


def test_an_uncapped_schedule_is_caught(hooked, monkeypatch) -> None:
    tiers = [6, 12, 18, 24]
    monkeypatch.setattr(
        step_hooks, "verify_lengths", lambda rule, confidence, load, cap: torch.full((4,), GAMMA, dtype=torch.int32)
    )
    with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=4) as planner:
        offline.attach(planner, offline.artifact(Fixed(length=2), GAMMA))
        made = Driver(planner, True).step(np.arange(1, 5), np.ones((4, GAMMA), np.float32))
        assert made.layout.graph_num_tokens == 12  # SGLang itself does not object.
        with pytest.raises(AssertionError):
            check(made, tiers)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
def test_a_resting_step_is_anchors_in_the_smallest_graph(hooked, overlap: bool) -> None:
    policy = Threshold(running=(1,), theta=(0.1,), off_above=6)
    tiers = sglang_tiers(16, GAMMA).tolist()
    with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=16, overlap=overlap) as planner:
        offline.attach(planner, offline.artifact(policy, GAMMA))
        driver = Driver(planner, overlap)
        for n in (7, 12, 13, 16):
            made = driver.step(np.arange(1, n + 1), np.ones((n, GAMMA), np.float32))
            assert made.lens == [1] * n and made.budget == 0
            assert made.layout.graph_num_tokens == min(tier for tier in tiers if tier >= n)
            assert not made.step.drafted and driver.drafts == 0
        assert driver.step(np.arange(1, 4), np.ones((3, GAMMA), np.float32)).step.drafted


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
def test_a_rest_takes_no_confidences_away(hooked, overlap: bool) -> None:
    """A request that drafted before is judged by its last confidences, one that has not drafted counts as certain."""
    policy = Threshold(running=(1,), theta=(0.5,), off_above=6)
    tiers = sglang_tiers(16, GAMMA).tolist()
    with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=16, overlap=overlap) as planner:
        offline.attach(planner, offline.artifact(policy, GAMMA))
        driver = Driver(planner, overlap)
        middling = np.full((4, GAMMA), 0.8, np.float32)
        # With overlap the relay brings confidences, without it the ring holds the driver's own; lag is two drafts.
        relayed = (middling, np.ones(4, np.int64))
        for _ in range(2):
            driver.step(np.arange(1, 5), middling, relayed)
        for _ in range(3):
            made = driver.step(np.arange(1, 13), np.ones((12, GAMMA), np.float32))
            assert not made.step.drafted
        # Survivals of 0.8, 0.64 and 0.51 reach the threshold. The relay still holds what the last drafts left in it.
        relay = (np.full((5, GAMMA), 0.8, np.float32), np.array([1, 1, 1, 1, 0]))
        made = driver.step(np.arange(1, 6), np.full((5, GAMMA), 0.6, np.float32), relay)
        check(made, tiers)
        assert made.step.budget.cap == 4 * 3 + GAMMA


@pytest.mark.parametrize(
    ("eager", "confidence", "length"),
    [
        # Whole blocks, which upstream runs without a layout: by what an eager step costs, or for want of it.
        (None, 0.8, None),
        ({"seconds": (0.1, 0.1)}, 0.8, None),
        # A draft that survives at 0.64 gives more tokens a second than the step, one at 0.51 fewer.
        ({"seconds": (0.02, 1.02)}, 0.8, 2),
        ({"seconds": (0.1, 0.1)}, 0.0, 0),
    ],
)
def test_past_the_graphs_the_belief_decides(hooked, eager: Any, confidence: float, length: int | None) -> None:
    tiers = sglang_tiers(4, GAMMA).tolist()
    belief = offline.BELIEF
    if eager is not None:
        belief = belief.model_copy(update={"eager": EagerTimes(tokens=(1, 1001), **eager)})
    said = np.full((30, GAMMA), confidence, np.float32)
    for policy in FAMILIES[1:7]:
        with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=4) as planner:
            offline.attach(planner, offline.artifact(policy, GAMMA, cost_belief=belief))
            made = Driver(planner, True).step(np.arange(1, 31), said, (said, np.ones(30, np.int64)))
            assert made.step.drafted is (length != 0)
            if length is None:
                assert made.layout is None and made.budget == 30 * GAMMA
                continue
            assert made.lens == [1 + length] * 30
            assert made.layout.graph_num_tokens == 30 * (1 + length) == made.layout.total_verify_tokens


def test_past_the_graphs_a_policy_that_does_not_draft_rests(hooked) -> None:
    tiers = sglang_tiers(4, GAMMA).tolist()
    for policy in (FAMILIES[0], FAMILIES[7]):  # Neither drafts for 30 requests.
        with offline.planner(gamma=GAMMA, slots=64, tiers=tiers, max_requests=4) as planner:
            offline.attach(planner, offline.artifact(policy, GAMMA))
            made = Driver(planner, True).step(np.arange(1, 31), np.ones((30, GAMMA), np.float32))
            assert made.lens == [1] * 30
            assert made.layout.graph_num_tokens == 30 == made.layout.total_verify_tokens


@pytest.mark.parametrize("armed", [True, False])
def test_an_eager_step_stages_nothing_in_the_graphs_epilogue(armed: bool) -> None:
    from sglang.srt.plugins.hook_registry import HookType, _wrap_fn
    from sglang.srt.speculative.dspark_components.dspark_verify import DsparkVerifyEpilogue

    hook = next(hook for hook in hooks.policy_hooks() if hook.target.endswith("DsparkVerifyEpilogue.begin_step"))
    begin_step = _wrap_fn(DsparkVerifyEpilogue.begin_step, hook.call, HookType(hook.kind))
    epilogue = DsparkVerifyEpilogue(
        max_bs=4, verify_num_draft_tokens=GAMMA + 1, device="cpu", tp_sync=offline.OneRank()
    )
    begin_step(epilogue, torch.tensor([3, 1, 2]), armed=armed)
    assert epilogue.verify_lens_buf.tolist() == [3, 1, 2, 0] and bool(epilogue.inject_gate_buf) is armed
    begin_step(epilogue, torch.full((5,), 2), armed=armed)
    assert epilogue.verify_lens_buf.tolist() == [0] * 4 and not bool(epilogue.inject_gate_buf)


def test_without_graphs_a_step_is_as_long_as_its_lengths(hooked) -> None:
    draw = np.random.default_rng(6)
    for policy in FAMILIES:
        with offline.planner(gamma=GAMMA, slots=64) as planner:
            offline.attach(planner, offline.artifact(policy, GAMMA, classes=("default", "fast")))
            driver = Driver(planner, True)
            for _ in range(8):
                made = driver.step(**random_step(draw, 50))
                assert made.layout.graph_num_tokens == sum(made.lens) <= len(made.lens) + made.step.budget.cap


def test_cap_accept_trims_to_the_policys_lengths(hooked) -> None:
    draw = np.random.default_rng(7)
    for policy in FAMILIES:
        with offline.planner(gamma=GAMMA, slots=64, mode="cap-accept") as planner:
            offline.attach(planner, offline.artifact(policy, GAMMA, classes=("default", "fast")))
            driver = Driver(planner, True)
            for _ in range(8):
                step = random_step(draw, 50)
                made = driver.step(**step)
                rule, load, (_, cap, drafts) = made.step.in_force.bound.rule, made.step.load, made.step.budget
                current = survival(step["confidence"])
                expected = lengths(rule, current, load, cap) if drafts else np.zeros(len(current), int)
                assert made.lens == (expected + 1).tolist()
                assert not planner.should_run_compact(layout=made.layout)


def test_a_changed_set_of_graphs_is_followed(hooked) -> None:
    with offline.planner(gamma=GAMMA, slots=64, tiers=[6, 60], max_requests=10) as planner:
        offline.attach(planner, offline.artifact(Fixed(length=1), GAMMA))
        driver = Driver(planner, True)
        step = (np.arange(1, 6), np.ones((5, GAMMA), np.float32))
        assert driver.step(*step).layout.graph_num_tokens == 60
        planner.model_runner.decode_cuda_graph_runner.capture_num_tokens = [6, 12, 60]
        made = driver.step(*step)
        check(made, [6, 12, 60])
        assert made.layout.graph_num_tokens == 12 and made.step.in_force.version == 1


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
def test_graphs_that_are_never_replayed_are_no_tiers(hooked, overlap: bool) -> None:
    draw = np.random.default_rng(7)
    with offline.planner(
        gamma=GAMMA, slots=64, tiers=[6, 12, 24, 48], max_requests=8, replays=False, overlap=overlap
    ) as planner:
        assert step_hooks.geometry(planner) == Geometry()
        offline.attach(planner, offline.artifact(Fixed(length=2), GAMMA))
        driver = Driver(planner, overlap)
        for _ in range(4):
            made = driver.step(**random_step(draw, 8))
            assert made.step.tier is None and driver.live.policy.in_force.geometry.tiers == ()
            assert made.step.budget.tier == sum(made.lens) == 3 * len(made.lens)


def test_whole_blocks_are_left_to_sglang(hooked, monkeypatch) -> None:
    monkeypatch.setattr(step_hooks.settings, "current", lambda: Settings(policy="/not/even/read.json"))
    with offline.planner(gamma=GAMMA, slots=64, tiers=[6, 12], max_requests=2, mode="static") as planner:
        step_hooks.attach(None, planner)
        assert step_hooks.of(SimpleNamespace(_verify_planner=planner)) is None
        assert step_hooks.geometry(planner) == Geometry()
