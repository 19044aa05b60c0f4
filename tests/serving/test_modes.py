"""Modes on, shadow and off, the kill switch, and a new policy between two steps."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang_dspark.errors import InputError
from sglang_dspark.policy import Fixed, Threshold, sglang_tiers
from sglang_dspark.policy.artifact import dumps
from sglang_dspark.policy.belief import sps_json
from sglang_dspark.serving import step_clock, step_hooks
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.live_policy import tempered
from sglang_dspark.serving.policy_file_watcher import Watcher
from sglang_dspark.serving.steps import Mode
from sglang_dspark.serving.stream import Stream
from tests.serving.harness import Driver, random_confidence, upstream

GAMMA = 4
TIERS = sglang_tiers(16, GAMMA).tolist()
STS = (0.5, 1.0, 2.0, 3.0)


def arguments(**more):
    return {"gamma": GAMMA, "slots": 20, "tiers": TIERS, "max_requests": 16} | more


def artifact(policy, **fields):
    return offline.artifact(policy, GAMMA, **fields)


def table():
    from sglang.srt.speculative.dspark_components.dspark_sps import SpsAdditiveCostTable

    return SpsAdditiveCostTable.from_json(sps_json(offline.BELIEF))


def steps(count: int, seed: int = 0):
    """Slots, confidences, and what the relay brings: the same requests throughout, all fresh."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        n = int(draw.integers(1, 12))
        slots = draw.permutation(np.arange(1, 20))[:n]
        relayed = (random_confidence(draw, n, GAMMA), np.ones(n, np.int64))
        yield slots, random_confidence(draw, n, GAMMA), relayed


def test_kill_switch_restores_upstream_with_the_next_words(hooked) -> None:
    with offline.planner(**arguments()) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1), sts_temperatures=STS))
        driver, head = Driver(planner, True), planner._confidence_head
        tensor, place = head.sts_temperatures, head.sts_temperatures.data_ptr()
        step = easy()
        n = len(step[0])
        assert driver.step(*step).lens == [2] * n
        assert tensor.tolist() == list(STS)
        live.policy.requested_mode = Mode.OFF
        # The step that tells the other ranks still holds to what they know; the one after does not.
        assert driver.step(*step).step.mode is Mode.ON
        made = driver.step(*step)
        assert made.step.mode is Mode.OFF and made.lens == [GAMMA + 1] * n
        assert planner._is_verify_all and tensor.tolist() == [1.0] * GAMMA
        live.policy.requested_mode = Mode.ON
        driver.step(*step)
        assert driver.step(*step).lens == [2] * n
        assert head.sts_temperatures is tensor and tensor.data_ptr() == place
        assert not planner._is_verify_all and tensor.tolist() == list(STS)


def test_off_at_the_start_is_upstream(hooked) -> None:
    with offline.planner(**arguments()) as ours, offline.planner(**arguments()) as theirs:
        offline.attach(ours, artifact(Fixed(length=1), sts_temperatures=STS), mode="off")
        assert ours._is_verify_all and ours._confidence_head.sts_temperatures.tolist() == [1.0] * GAMMA
        ours._is_verify_all = theirs._is_verify_all = False
        ours._budget_planner.sps_table = theirs._budget_planner.sps_table = table()
        compare_with_upstream(Driver(ours, True), theirs, Mode.OFF)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
@pytest.mark.parametrize("policy", [Fixed(length=1), Threshold(running=(1,), theta=(0.9,), off_above=3)], ids=str)
def test_shadow_applies_upstreams_decision_and_notes_ours(hooked, policy, overlap: bool) -> None:
    with offline.planner(**arguments(overlap=overlap)) as ours, offline.planner(**arguments(overlap=overlap)) as theirs:
        offline.attach(ours, artifact(policy), mode="shadow")
        ours._is_verify_all = theirs._is_verify_all = False
        ours._budget_planner.sps_table = theirs._budget_planner.sps_table = table()
        noted = compare_with_upstream(Driver(ours, overlap), theirs, Mode.SHADOW)
        assert all(step.upstream_cap is not None and step.budget is not None for step in noted)
        assert {step.upstream_cap == step.budget.cap for step in noted} >= {False}
        if isinstance(policy, Fixed):
            assert all(step.budget.cap == len(step.load.context) for step in noted)


def easy():
    """Six requests with drafts that all pass."""
    confidence = np.full((6, GAMMA), 0.9, np.float32)
    return np.arange(1, 7), confidence, (confidence, np.ones(6, np.int64))


def compare_with_upstream(driver: Driver, reference, mode: Mode):
    """Budget, layout and lengths of every step are those of a planner without a policy."""
    noted = []
    for slots, confidence, relayed in steps(40):
        made = driver.step(slots, confidence, relayed)
        rows = torch.from_numpy(slots)
        seen = relayed if driver.overlap else (confidence, np.ones(len(slots), np.int64))
        budget = upstream(reference._budget_planner.compute_budget)(
            confidence=torch.from_numpy(seen[0]),
            generation=torch.from_numpy(seen[1]),
            current_generation=torch.ones(len(slots), dtype=torch.int64),
            req_pool_indices_cpu=rows,
        )
        assert made.budget == budget == made.step.upstream_cap
        layout = upstream(reference.schedule_layout)(
            req_pool_indices=rows,
            prefix_lens=rows,
            device=torch.device("cpu"),
            confidence=torch.from_numpy(confidence),
            budget=budget,
        )
        assert made.lens == layout.verify_lens.tolist()
        assert made.layout.graph_num_tokens == layout.graph_num_tokens
        assert made.step.mode is mode and not made.step.steers and made.step.drafted
        noted.append(made.step)
    return noted


def test_shadow_judges_by_scaled_confidences(hooked) -> None:
    policy = Threshold(running=(1,), theta=(0.5,))
    with offline.planner(**arguments(tiers=None)) as planner:
        offline.attach(planner, artifact(policy, sts_temperatures=STS), mode="shadow")
        driver = Driver(planner, True)
        for slots, confidence, relayed in steps(20, seed=3):
            made = driver.step(slots, confidence, relayed)
            scaled = np.cumprod(tempered(relayed[0], STS).astype(np.float64), axis=1).astype(np.float32)
            assert made.step.budget.cap == int((scaled >= 0.5).sum())


def test_scaling_divides_logits() -> None:
    confidence = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    head = torch.sigmoid(torch.logit(torch.from_numpy(confidence).double(), eps=1e-7) / torch.tensor(STS)).float()
    np.testing.assert_allclose(tempered(confidence, STS), head.numpy(), rtol=1e-6)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
def test_forced_budget_of_the_operator_wins(hooked, overlap: bool) -> None:
    with offline.planner(**arguments(overlap=overlap)) as planner:
        offline.attach(planner, artifact(Threshold(running=(1,), theta=(0.9,), off_above=2)))
        driver = Driver(planner, overlap)
        for frac, length in ((0.5, 2), (0.0, 0), (1.0, GAMMA)):
            planner.set_forced_budget_frac(frac)
            for slots, _, relayed in steps(5):
                n = len(slots)
                relayed = (np.ones((n, GAMMA), np.float32), relayed[1])
                made = driver.step(slots, relayed[0], relayed)
                assert made.budget == n * length and made.lens == [length + 1] * n and made.step.drafted
        planner.set_forced_budget_frac(None)
        assert driver.step(np.arange(1, 5), np.ones((4, GAMMA), np.float32)).lens == [1] * 4


def test_a_new_policy_holds_from_the_step_after_its_words(hooked) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        old = artifact(Fixed(length=1), sts_temperatures=(2.0,) * GAMMA)
        live, driver = offline.attach(planner, old), Driver(planner, True)
        temperatures = planner._confidence_head.sts_temperatures
        slots, confidence, relayed = easy()
        n, n_drafts = len(slots), []
        for length in (3, 2):
            new = artifact(Fixed(length=length), sts_temperatures=(1.0 + length,) * GAMMA)
            live.policy.offer(dumps(new).encode())
            n_drafts.append(driver.step(slots, confidence, relayed).lens)
            assert driver.step(slots, confidence, relayed).lens == [length + 1] * n
            assert temperatures.tolist() == [1.0 + length] * GAMMA
        assert n_drafts == [[2] * n, [4] * n]
        assert live.policy.in_force.version == 3


def test_a_step_ends_under_the_policy_that_it_began_under(hooked) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        driver = Driver(planner, True)
        slots, confidence, relayed = easy()
        draft = driver._draft

        def offering(*args, **kwargs):
            live.policy.offer(dumps(artifact(Fixed(length=4))).encode())
            live.policy.requested_mode = Mode.OFF
            return draft(*args, **kwargs)

        driver._draft = offering
        made = driver.step(slots, confidence, relayed)
        assert made.lens == [2] * len(slots) and made.step.in_force.version == 1 and made.step.mode is Mode.ON
        driver._draft = draft
        assert driver.step(slots, confidence, relayed).lens == [2] * len(slots)
        made = driver.step(slots, confidence, relayed)
        assert made.step.in_force.version == 2 and made.step.mode is Mode.ON


def test_versions_count_policies_taken_however_fast_they_come(hooked) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        driver, step = Driver(planner, True), easy()
        live.policy.offer(dumps(artifact(Fixed(length=2))).encode())
        driver.step(*step)  # Tells the ranks of the first.
        live.policy.offer(dumps(artifact(Fixed(length=3))).encode())  # Before the first is in force.
        assert driver.step(*step).step.in_force.version == 2
        assert driver.step(*step).step.in_force.version == 3
        assert live.policy.in_force.artifact.policy == Fixed(length=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        dumps(offline.artifact(Fixed(length=1), GAMMA + 1)).encode(),
        b'{"schema_version":3}',
    ],
)
def test_an_offer_that_cannot_be_used_changes_nothing(hooked, content: bytes) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        driver, (slots, confidence, relayed) = Driver(planner, True), easy()
        before = live.policy.in_force
        with pytest.raises(InputError, match=r"^\S*policy\.json: "):
            live.policy.offer(content)
        for _ in range(3):
            assert driver.step(slots, confidence, relayed).lens == [2] * len(slots)
        assert live.policy.in_force.text == before.text and live.policy.in_force.version == 1


def test_a_touched_file_ends_no_fall_back_and_a_changed_one_does(hooked, tmp_path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(dumps(artifact(Fixed(length=1))))
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        live.policy.settings = live.policy.settings.model_copy(update={"policy": str(path)})
        watcher, driver, step = Watcher(live.policy), Driver(planner, True), easy()
        live.policy.requested_mode = Mode.OFF  # As the guard sets it.
        for content, expected in ((Fixed(length=1), Mode.OFF), (Fixed(length=2), Mode.ON)):
            path.write_text(dumps(artifact(content)))
            os.utime(path, ns=(1, expected + 1))
            watcher.look()
            driver.step(*step)
            assert driver.step(*step).step.mode is expected
        assert live.policy.in_force.version == 2


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
def test_a_rest_of_the_guards_drafts_nothing_until_it_ends(hooked, overlap: bool) -> None:
    with offline.planner(**arguments(overlap=overlap)) as planner:
        live, driver, step = offline.attach(planner, artifact(Fixed(length=2))), Driver(planner, overlap), easy()
        drafts = []
        for resting in (False, True, True, False):
            live.policy.resting = resting
            made = driver.step(*step)
            drafts.append(driver.drafts)
            assert made.lens == [1 if resting else 3] * 6 and made.step.drafted is not resting
            assert made.step.budget.tier in TIERS and made.layout.graph_num_tokens in TIERS
        assert drafts == [1, 1, 1, 2]
        # Upstream's decision is another matter, and the operator's word ends a rest.
        live.policy.resting = True
        live.policy.requested_mode = Mode.SHADOW
        driver.step(*step)
        assert driver.step(*step).step.drafted
        live.policy.switch(Mode.ON)
        assert driver.step(*step).lens == [3] * 6 and not live.policy.resting


def test_waiting_requests_are_those_of_the_step_though_sglang_replaces_the_list(hooked) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        driver, seen = Driver(planner, True), []
        scheduler = SimpleNamespace(draft_worker=driver.worker, waiting_queue=["first"], metrics_collector=None)
        step_hooks.attach_scheduler(None, scheduler)
        scheduler.dspark_observers.background.stop()
        for waiting in (6, 0, 3):
            # As ``Scheduler._get_new_batch_prefill_raw`` drops what it admits, and then appends what comes.
            scheduler.waiting_queue = list(range(waiting))
            scheduler.waiting_queue.append("another")
            prefill = live.begin_prefill(SimpleNamespace(extend_num_tokens=1, prefix_lens=[0], after_idle_gap=False))
            seen.append((driver.step(*easy()).step.load.queued, prefill.queued))
        assert seen == [(7, 7), (1, 1), (4, 4)]


def test_work_between_two_steps_is_not_the_second_steps_time(hooked, monkeypatch) -> None:
    now = iter(range(1, 100))
    monkeypatch.setattr(step_clock.time, "monotonic", lambda: float(next(now)))
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        elapsed: list[float] = []
        live.observers.append(lambda step, outcome: elapsed.append(outcome.elapsed_s))
        stream = Stream(live)
        stream.request(1)
        lens = torch.ones(6, dtype=torch.int32)
        driver = Driver(planner, True)
        for held_up in (False, False, True, False):
            if held_up:
                # A reader takes the recorded steps.
                assert stream.state() is not None
            live.end_step(driver.step(*easy()).step, lens, lens)
        assert [math.isnan(s) for s in elapsed] == [True, False, True, False]


def test_a_new_policy_ends_a_fall_back_but_not_the_operators_off(hooked) -> None:
    with offline.planner(**arguments(tiers=None)) as planner:
        live = offline.attach(planner, artifact(Fixed(length=1)))
        driver, step = Driver(planner, True), easy()
        for operator, expected in ((Mode.ON, Mode.ON), (Mode.OFF, Mode.OFF)):
            live.policy.configured, live.policy.requested_mode = (
                operator,
                Mode.OFF,
            )  # As the guard, and as /set_internal_state, set them.
            driver.step(*step)
            assert driver.step(*step).step.mode is Mode.OFF
            live.policy.offer(dumps(artifact(Fixed(length=2))).encode())
            driver.step(*step)
            assert driver.step(*step).step.mode is expected
