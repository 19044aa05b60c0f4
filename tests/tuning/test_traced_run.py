"""Traced runs against the figures of the same runs without tracing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dspark_simulator import scenario as scenarios
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.state import Record
from dspark_tuning.search import baselines
from dspark_tuning.search.evaluation import Cell, at_load, measure
from dspark_tuning.search.timeline import PARTS, timeline
from dspark_tuning.search.traced_run import QUANTILES, sample_loads, trace_cell
from sglang_dspark.policy import Threshold

SCENARIO = scenarios.load("b300-v4flash")
TUNED = Arm(
    baselines.TUNED, baselines.compact(SCENARIO.server), Threshold(running=(1, 64), theta=(0.1, 0.5), weight=(1.0, 1.0))
)


@pytest.mark.parametrize(
    "arm", [TUNED, baselines.default(SCENARIO), baselines.plain(SCENARIO)], ids=lambda arm: arm.name
)
def test_it_is_the_run_that_was_measured(arm: Arm) -> None:
    cell = Cell(arm, 64.0, 5, length=4)
    row, run = measure(SCENARIO, cell), trace_cell(SCENARIO, cell)
    for kind in ("ttft", "tpot", "itl"):
        for q in (0.5, 0.9, 0.99):
            assert run.latencies[kind][QUANTILES.index(q)] == row[f"{kind}_p{100 * q:.0f}_s"], kind
        assert np.all(np.diff(run.latencies[kind]) >= 0)
    # After the warm-up the run is steady, and differs from the means of the measuring window by noise.
    steady = slice(PARTS // 3, PARTS)
    assert run.timeline.kv_share[steady].mean() == pytest.approx(row["kv_use"], rel=0.1)
    assert run.timeline.running[steady].mean() == pytest.approx(row["running"] * row["utilisation"], rel=0.05)
    assert np.nanmean(run.timeline.verify_length[steady]) == pytest.approx(row["verify_length"], rel=0.05)


def test_log_and_totals_agree() -> None:
    log: list[StepLog] = []
    totals: list[Record] = []
    two = at_load(SCENARIO.model_copy(update={"replicas": 2}), Cell(TUNED, 32.0, 1))
    simulate(two, TUNED, seed=1, log=log, totals=totals)
    for replica, metrics in enumerate(totals[0]):
        steps = [step for step in log if step.replica == replica]
        lengths = metrics["verify_length"]
        assert sum(step.decoded for step in steps) == lengths.sum() == metrics["request_rounds"]
        assert sum(step.verified for step in steps) == (lengths * np.arange(len(lengths))).sum()


def test_timeline_keeps_every_integral() -> None:
    rng = np.random.default_rng(3)
    frames = []
    for replica in range(2):
        wait_s, step_s = rng.exponential(0.3, 50), rng.uniform(0.01, 2.0, 50)
        start_s = np.cumsum(wait_s) + np.concatenate([[0.0], np.cumsum(step_s)[:-1]])
        frames.append(pd.DataFrame({"replica": replica, "start_s": start_s, "step_s": step_s}))
    steps = pd.concat(frames, ignore_index=True).sort_values("start_s", ignore_index=True)
    for field in ("running", "queued", "kv_tokens", "decoded"):
        steps[field] = rng.integers(1, 100, len(steps))
    steps["verified"] = 3 * steps["decoded"]
    found = timeline(steps, kv_tokens=1000)
    width_s = ((steps["start_s"] + steps["step_s"]).max() - steps["start_s"].min()) / PARTS
    assert found.at_s[0] == pytest.approx(width_s / 2) and np.diff(found.at_s) == pytest.approx([width_s] * (PARTS - 1))
    assert found.running.sum() * width_s == pytest.approx((steps["running"] * steps["step_s"]).sum())
    assert found.kv_share.sum() * width_s == pytest.approx((steps["kv_tokens"] * steps["step_s"]).sum() / 1000)
    assert found.verify_length == pytest.approx([3.0] * PARTS)


def test_timeline_by_hand() -> None:
    # 80 parts of 1 s: one step of 40 s, a pause of 20 s, one of 20 s without a round.
    rows = [(0, 5.0, 40.0, 4, 1, 10, 4, 20), (0, 65.0, 20.0, 8, 0, 30, 0, 0)]
    names = ["replica", "start_s", "step_s", "running", "queued", "kv_tokens", "decoded", "verified"]
    found = timeline(pd.DataFrame(rows, columns=names), kv_tokens=100)
    assert PARTS == 80 and found.at_s.tolist() == [part + 0.5 for part in range(80)]
    assert found.running == pytest.approx([4.0] * 40 + [0.0] * 20 + [8.0] * 20)
    assert found.queued == pytest.approx([1.0] * 40 + [0.0] * 40)
    assert found.kv_share == pytest.approx([0.1] * 40 + [0.0] * 20 + [0.3] * 20)
    assert found.verify_length[:40] == pytest.approx([5.0] * 40)
    assert all(math.isnan(length) for length in found.verify_length[40:])


def test_loads_that_are_shown() -> None:
    assert sample_loads([64.0, 1.0, 16.0, 512.0, 256.0]) == [1.0, 64.0, 512.0]
    assert sample_loads([2.0, 1.0]) == [1.0, 2.0] and sample_loads([3.0, 3.0]) == [3.0]
