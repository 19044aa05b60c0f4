"""Rehearsal of the GPU check's two server stages on the CPU engine."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dspark_simulator.scenario import load
from dspark_tuning.cli.saturated import pairs
from sglang_dspark.gpu_check import cost, engine, stage
from sglang_dspark.gpu_check.stage import Stage
from sglang_dspark.local_server.process import ServerProcess
from tests.live import servers

BUDGET_S = 1000.0
PLAIN = (24, 2)
SMALL = cost.REHEARSED._replace(loads={24: (1, 3)}, other_loads={}, plain=(PLAIN,), limits=(2, 4))


def results(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    bad = {key: cell for key, cell in content["cells"].items() if "result" not in cell}
    assert not bad, json.dumps(bad, indent=1)
    assert content["device"] == "cpu rehearsal"
    return content


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ServerProcess", partial(ServerProcess, launcher=servers.FORKED))


@pytest.mark.xdist_group("overlap")
def test_the_engine_stage_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OTHERS", {})
    engine.run(Stage("engine", tmp_path, BUDGET_S, True))
    content = results(tmp_path, "engine")
    judged = {name: cell["result"] for name, cell in content["cells"].items() if "passes" in (cell["result"] or {})}
    assert set(judged) == {
        *(f"ours: greedy, {family}" for family in engine.REHEARSED.families),
        *("ours: temperature 1 against plain", "ours: kill switch"),
        *("ours: rest and resume", "ours: reloads under load"),
    }
    assert all(result["passes"] for result in judged.values()), json.dumps(judged, indent=1)
    steps = content["steps of ours"]
    assert steps["of_unequal_lengths"] > 10 and steps["without_a_draft"] > 10
    assert {row["drafted"] for row in steps["step_times"]} == {True, False}


# Many replaced policies, each of which waits for steps of a server: minutes, and on a busy machine too long.
@pytest.mark.slow
@pytest.mark.xdist_group("sync")
def test_the_cost_stage_is_rehearsed_and_makes_a_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "REHEARSED", SMALL)
    monkeypatch.setattr(cost, "INTERVALS", (0, 4))
    out = tmp_path / "out"
    cost.run(Stage("cost", out, BUDGET_S, True))
    content = results(out, "cost")
    assert {"gamma 7: 3 of 24", "plain: 2 of 24", "plain: at most 4 running, prefill interval 4"} <= set(
        content["cells"]
    )
    lengths = {row["verify_length"] for row in content["steps of gamma 7"]["step_times"]}
    assert {0.0, 1.0, 3.0, 7.0} <= lengths
    assert content["next"][0] == "dspark"
    # Of this environment, whatever is on the path.
    command = [sys.executable, "-m", "dspark_tuning.cli", *content["next"][1:]]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    made = load(str(tmp_path / "h200-qwen3-8b-measured.yaml"))
    assert made.name == "h200-qwen3-8b-measured"
    assert made.cost.kind == "curve"
    assert made.workload == load("h200-qwen3-8b").workload
    saturated = list(pairs(out, made))
    assert [(pair.limit, pair.interval) for pair in saturated] == [(2, 0), (4, 0), (4, 4)]
    assert all(pair.measured_tok_s > 0 and pair.simulated_tok_s > 0 for pair in saturated)
