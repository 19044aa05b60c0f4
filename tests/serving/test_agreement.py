"""Two processes over gloo, each with SGLang's planner: rank 0 decides, and both follow it in every step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import harness, two_ranks

GAMMA, SLOTS, STEPS, DEADLINE_S = 4, 20, 40, 900.0
SCENARIOS = ("relay late on rank 1", "reload on rank 0", "fall-back on rank 0", "each alone")


def rank(number: int, folder: str) -> None:
    """One rank's process: runs every scenario, and writes what each step was decided by."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    found = {}
    for name in SCENARIOS:
        with harness.hooks_on_planner():
            found[name] = _run(name, number, folder)
    found["other file"] = _refusal(number)
    Path(folder, f"rank-{number}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _group(number: int) -> Any:
    import torch.distributed as dist

    from sglang_dspark.serving.evidence.offline import OneRank

    group = OneRank()
    group.world_size, group.rank_in_group, group.ranks, group.cpu_group = 2, number, (0, 1), dist.group.WORLD
    return group


def _policy(theta: float, sts: float = 1.0) -> Any:
    from sglang_dspark.policy import Threshold
    from sglang_dspark.serving.evidence import offline

    policy = Threshold(running=(1, 16), theta=(theta, 0.9), fill=True, off_above=12)
    return offline.artifact(policy, GAMMA, sts_temperatures=(sts,) * GAMMA)


def _run(name: str, number: int, folder: str) -> list[Any]:
    from sglang_dspark.policy import sglang_tiers
    from sglang_dspark.policy.artifact import dumps
    from sglang_dspark.serving.evidence import offline
    from sglang_dspark.serving.steps import Mode

    shared, own = np.random.default_rng(7), np.random.default_rng(1000 + number)
    tiers = sglang_tiers(16, GAMMA).tolist()
    steps = []
    with offline.planner(gamma=GAMMA, slots=SLOTS, tiers=tiers, max_requests=16, group=_group(number)) as planner:
        # Every rank read the same file at the start, and rank 1 has lost it since.
        live = offline.attach(planner, _policy(0.2))
        if name == "each alone":
            live.policy.agreement.alone = live.policy.agreement.leads = True
        driver = harness.Driver(planner, overlap=True)
        for i in range(STEPS):
            n = int(shared.integers(1, 15))
            slots = shared.permutation(np.arange(1, SLOTS))[:n]
            confidence, older = (harness.random_confidence(shared, n, GAMMA) for _ in range(2))
            relayed: Any = (older, np.ones(n, np.int64))
            if number == 1 and own.random() < 0.5:
                relayed = None
            if name == "reload on rank 0" and number == 0 and i in (5, 11, 12, 13, 20):
                live.policy.offer(dumps(_policy(0.01 * i, sts=1.0 + i)).encode())
            if name == "fall-back on rank 0" and number == 0 and i in (10, 25):
                live.policy.requested_mode = Mode.OFF if i == 10 else Mode.ON
            made = driver.step(slots, confidence, relayed)
            step = made.step
            steering = step.mode is Mode.ON
            steps.append(
                [
                    [*map(int, step.budget or (0, 0, 0)), int(step.mode), step.in_force.version, step.in_force.sha256],
                    [planner._is_verify_all, planner._confidence_head.sts_temperatures.tolist(), step.drafted],
                    [made.budget, made.lens, made.layout.graph_num_tokens] if steering else None,
                ]
            )
    return steps


def _refusal(number: int) -> str:
    from sglang_dspark.errors import InputError
    from sglang_dspark.serving.evidence import offline

    with offline.planner(gamma=GAMMA, slots=SLOTS, group=_group(number)) as planner:
        try:
            offline.attach(planner, _policy(0.2 + number))
        except InputError as error:
            return str(error)
    return ""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    return two_ranks.run(start, tmp_path_factory.mktemp("ranks"), DEADLINE_S)


def start(number: int, folder: str) -> None:
    from sglang_dspark.cpu_engine import early

    early.prepare([])
    rank(number, folder)


@pytest.mark.parametrize("scenario", SCENARIOS[:3])
def test_ranks_take_the_same_decision_in_every_step(ranks, scenario: str) -> None:
    first, second = (found[scenario] for found in ranks)
    assert len(first) == STEPS
    assert first == second
    assert len({step[0][1] for step in first}) > 5  # Caps.
    assert {step[1][2] for step in first} == {True, False}  # Some steps rested.


def test_without_the_agreement_they_part(ranks) -> None:
    first, second = (found["each alone"] for found in ranks)
    differ = [a[0][:2] != b[0][:2] for a, b in zip(first, second, strict=True)]
    assert sum(differ) > 5


def test_every_reload_was_taken_by_both(ranks) -> None:
    for found in ranks:
        versions = [step[0][4] for step in found["reload on rank 0"]]
        changes = [i for i in range(1, STEPS) if versions[i] != versions[i - 1]]
        assert changes == [6, 12, 13, 14, 21] and versions[-1] == 6
        assert [found["reload on rank 0"][i][1][1][0] for i in changes] == [6.0, 12.0, 13.0, 14.0, 21.0]


def test_a_fall_back_of_rank_0_is_taken_by_both(ranks) -> None:
    for found in ranks:
        modes = [step[0][3] for step in found["fall-back on rank 0"]]
        assert modes == [1] * 11 + [0] * 15 + [1] * 14


def test_different_files_are_refused_on_both(ranks) -> None:
    messages = [found["other file"] for found in ranks]
    assert messages[0] == messages[1]
    assert "policy.json" in messages[0] and "rank 1" in messages[0]


APART = ("policy on rank 0 alone", "kernels on rank 1 alone", "policy on rank 0, kernels on rank 1")


def start_apart(number: int, folder: str) -> None:
    """One rank's process: agrees on what its flags ask for, where the other has other flags or none."""
    from datetime import timedelta

    import torch.distributed as dist

    from sglang_dspark.errors import InputError
    from sglang_dspark.serving import agreement

    agreement.PATIENCE = timedelta(seconds=5)  # type: ignore[misc]
    found = {}
    for i, name in enumerate(APART):
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{i}", rank=number, world_size=2)
        group = agreement.Agreement(_group(number))
        try:
            if f"policy on rank {number}" in name:
                group.check_same(b"{}", "policy.json")
            elif f"kernels on rank {number}" in name:
                group.on_each([True])
        except InputError as error:
            found[name] = str(error)
        Path(folder, f"{i}-{number}").touch()
        while not Path(folder, f"{i}-{1 - number}").exists():
            time.sleep(0.05)
        dist.destroy_process_group()
    Path(folder, f"rank-{number}.json").write_text(json.dumps(found))


def test_ranks_with_other_flags_are_named_instead_of_waited_for(tmp_path: Path) -> None:
    first, second = two_ranks.run(start_apart, tmp_path, DEADLINE_S)
    assert set(first) == {APART[0], APART[2]} and set(second) == {APART[1], APART[2]}
    assert first[APART[0]].startswith("--speculative-dspark-policy: rank 1 does not answer within 5 s; start all hosts")
    assert second[APART[1]].startswith(
        "--speculative-dspark-kernels: rank 0 does not answer within 5 s; start all hosts"
    )
    for found, about in ((first, "policy"), (second, "kernels")):
        assert found[APART[2]].startswith(f"--speculative-dspark-{about}: ranks would agree on different things; start")
