"""The launch command of a replica: flags, variables and files as SGLang names them."""

from __future__ import annotations

import shlex

import pytest

from dspark_simulator.scenario import Scenario, load
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.launch_command import command
from dspark_tuning.search.space import Space

TABLE = "--speculative-dspark-sps-table-path sps_table.json --speculative-dspark-confidence-sts-path"
ALIGN = "--speculative-dspark-align-verify-tokens-to-graph-tier"


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load("b300-v4flash")


def words(scenario: Scenario, arm: Arm) -> str:
    return " ".join(shlex.split(command(scenario, arm).replace("\\\n", "")))


def test_an_unmodified_server_has_a_table_and_no_policy(scenario: Scenario) -> None:
    space = Space(scenario, {})
    tuned = space.arm("tuned", space.start())._replace(server=scenario.server.model_copy(update={"gamma": 3}))
    stock = words(scenario, baselines.on_stock(tuned))
    assert f"{TABLE} sts.json {ALIGN}" in stock and "policy.json" not in stock
    assert "SGLANG_RAGGED_VERIFY_MODE=compact" in stock and "--speculative-dspark-block-size 3" in stock
    ours = words(scenario, tuned)
    assert ours.endswith("--speculative-dspark-policy policy.json") and TABLE not in ours and ALIGN not in ours


def test_servers_without_a_schedule_need_no_files(scenario: Scenario) -> None:
    for arm in (baselines.plain(scenario), baselines.default(scenario)):
        assert ".json" not in words(scenario, arm)
        assert words(scenario, arm).count("--tp 4") == 1
    assert "DRAFT" not in words(scenario, baselines.plain(scenario))
    assert "--speculative-draft-model-path DRAFT" in words(scenario, baselines.default(scenario))
