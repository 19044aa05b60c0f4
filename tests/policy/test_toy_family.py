"""A new policy family is one file and one entry of the registry: a toy family in an artifact, the rule, the simulator
and the live hooks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dspark_simulator.server import Server
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Engine, Load, Policy, SpsAdditiveTable, budget, compile_rule
from sglang_dspark.policy.artifact import dumps, load, parse, save, untuned
from sglang_dspark.policy.families import FAMILIES
from tests.simulator.deployment import Bench, drafter

GAMMA = 4
MODULE = '''
from typing import Any, Literal

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Length, Policy


class Alternate(Policy):
    """Two drafts of every other request, at any survival."""

    family: Literal["alternate"] = "alternate"
    drafts: Length

    def write(self, record: Any) -> None:
        record["min_length"] = 0
        record["max_length"] = self.drafts

    @staticmethod
    @njit()
    def compute_budget(rule, survival, context, slo_class):
        return (survival.shape[0] + 1) // 2 * rule[0].max_length
'''
BELIEF = SpsAdditiveTable(
    bias_seconds=0.01, bs_probes=(1, 64), alpha_seconds=(0.0, 0.001), m_probes=(1, 64), theta_seconds=(0.0, 0.001)
)


@pytest.fixture(scope="module")
def alternate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Policy]]:
    path = tmp_path_factory.mktemp("toy") / "alternate.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("alternate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["alternate"] = module
    spec.loader.exec_module(module)
    FAMILIES["alternate"] = module.Alternate
    yield module.Alternate
    del FAMILIES["alternate"], sys.modules["alternate"]


def test_an_artifact_carries_it(alternate: Any, tmp_path: Path) -> None:
    written = untuned(alternate(drafts=2), BELIEF, GAMMA)
    save(written, tmp_path / "policy.json")
    read = load(tmp_path / "policy.json")
    assert read == written and read.policy.drafts == 2 and type(read.policy) is alternate
    (tmp_path / "policy.json").write_text(dumps(written).replace('"drafts": 2', '"drafts": 99'))
    with pytest.raises(InputError, match=r"policy\.drafts: 99 is not valid"):
        load(tmp_path / "policy.json")


def test_the_rule_follows_it(alternate: Any) -> None:
    rule = compile_rule(alternate(drafts=2), Engine(GAMMA, np.array([4, 8, 16]), 3))
    for requests, cap in ((1, 2), (2, 2), (3, 4)):
        certain = np.ones((requests, GAMMA), np.float32)
        planned = budget(rule, certain, Load(np.ones(requests, np.int64), np.zeros(requests, np.int64)))
        assert (planned.cap, planned.draft) == (cap, True)


def test_the_simulator_follows_it(alternate: Any) -> None:
    """Every draft is accepted: with a budget of 2 for 2 requests, 2 drafts and 2 tokens of the target a round."""
    server = Server(engine="sglang", gamma=GAMMA, max_running_requests=8, verify_mode="compact")
    bench = Bench(server, policy=alternate(drafts=2), acceptance=drafter(1.0))
    for _ in range(2):
        bench.send(16, 200)
    rounds = [step for step in bench.steps(20) if step.kind == "decode"]
    assert {step.cap for step in rounds[-5:]} == {2}
    before = sum(bench.produced().values())
    bench.step()
    assert sum(bench.produced().values()) - before == 4


def test_the_live_hooks_follow_it(alternate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sglang")
    from sglang_dspark.cpu_engine import early

    monkeypatch.setenv(early.VARIABLE, "1")
    early.prepare([])
    from sglang_dspark.serving.evidence import offline
    from tests.serving import harness

    with (
        harness.hooks_on_planner(),
        offline.planner(gamma=GAMMA, slots=16, tiers=[4, 8, 16, 24, 32], max_requests=8) as planner,
    ):
        offline.attach(planner, offline.artifact(alternate(drafts=2), GAMMA))
        driver = harness.Driver(planner, overlap=True)
        certain = np.full((3, GAMMA), 0.9, np.float32)
        made = driver.step(np.arange(1, 4), certain, (certain, np.ones(3, np.int64)))
        assert made.budget == 4 and made.step is not None and made.step.drafted
        assert sum(made.lens or ()) == 3 + 4 and max(made.lens or ()) <= 3


def test_a_family_that_is_not_registered_is_refused() -> None:
    text = dumps(untuned(FAMILIES["fixed"](length=1), BELIEF, GAMMA)).replace('"fixed"', '"magic"')
    with pytest.raises(InputError, match=r"^p: policy\.family: 'magic' is not valid; give one of .*'fixed'[^\n]*$"):
        parse(text, "p")
