"""Knees: bisection on arms with a known knee, pairing, intervals, and the result of the benchmark."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Poisson
from dspark_tuning.measuring.bench import knee as bench
from dspark_tuning.measuring.bench import policy
from dspark_tuning.reporting import benches
from dspark_tuning.reporting.jsonable import jsonable
from dspark_tuning.search import baselines
from dspark_tuning.search.evaluation import executor
from dspark_tuning.search.knee import (
    LEAST_MEASURED,
    PRECISION,
    RANGE,
    REQUIRED,
    KneeSearch,
    at_rate,
    highest,
    knee,
    knees,
)
from tests.simulator.deployment import a_class, a_scenario, step_cost

PLAIN = Arm("plain", Server(speculative=False, max_running_requests=8))


def queue(**slo: float) -> Scenario:
    """Requests of 50 tokens, each step of 10 ms: the capacity follows from the running requests."""
    return a_scenario(
        Poisson(rate_per_s=1.0),
        a_class(prompt=1, output=50, slo={"ttft_s": 0.5, "tpot_s": 1.0} | slo),
        cost=step_cost(0.01, prefill_s=1e-6),
        kv_tokens=2000,
        requests=200,
        warmup=20,
    )


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_knee_is_found_from_any_guess_within_the_range(true_per_s: float, guess: float) -> None:
    tried: list[float] = []

    def attains(rate_per_s: float) -> bool:
        tried.append(rate_per_s)
        return rate_per_s <= true_per_s

    found = highest(attains, guess)
    if found == 0:
        assert true_per_s < guess / RANGE
    elif found > RANGE * guess:
        assert found <= true_per_s
    else:
        assert found <= true_per_s < found * (1 + PRECISION)
    assert len(tried) < 25


def test_a_good_guess_takes_few_runs() -> None:
    tried: list[float] = []

    def attains(rate_per_s: float) -> bool:
        tried.append(rate_per_s)
        return rate_per_s <= 31.0

    highest(attains, 30.0)
    assert len(tried) <= 5


def test_a_run_is_longer_the_higher_the_rate_and_as_long_in_time() -> None:
    scenario = queue()
    low, high = at_rate(scenario, 1000.0), at_rate(scenario, 4000.0)
    measured = [at.run.requests - at.run.warmup_requests for at in (low, high)]
    assert measured[1] == pytest.approx(4 * measured[0], rel=0.01) and measured[0] > LEAST_MEASURED
    assert high.run.warmup_requests > low.run.warmup_requests
    few = at_rate(scenario, 0.01).run
    assert few.requests - few.warmup_requests == LEAST_MEASURED


def test_the_knee_is_where_attainment_falls_below_what_is_required() -> None:
    scenario = queue()
    found = knee(scenario, KneeSearch(PLAIN, 3, 5.0))
    below, above = (
        simulate(at_rate(scenario, found * factor), PLAIN, seed=3, truth=scenario.live.draw(3)).attainment
        for factor in (0.95, 1.05)
    )
    assert below >= REQUIRED > above
    # Eight at a time, 0.5 s each: nothing can do more than 16 a second.
    assert 0.6 * 16 < found < 16


def test_what_misses_its_service_level_alone_has_no_knee() -> None:
    assert knee(queue(tpot_s=0.005), KneeSearch(PLAIN, 3, 5.0)) == 0.0


def test_every_arm_meets_the_same_requests_whoever_runs_it() -> None:
    scenario, twin = queue(), PLAIN._replace(name="twin")
    found = knees(scenario, [PLAIN, twin], [3, 6, 9])
    by_arm = found.pivot(index="seed", columns="arm", values="rate_per_s")
    assert list(by_arm.index) == [3, 6, 9]
    assert (by_arm["plain"] == by_arm["twin"]).all() and by_arm["plain"].nunique() > 1
    with executor(2) as pool:
        assert knees(scenario, [PLAIN, twin], [3, 6, 9], pool).equals(found)


def test_ratios_are_paired_and_none_is_over_nothing() -> None:
    base = np.array([10.0, 20.0, 40.0, 80.0, 30.0, 15.0])
    found = bench._ratio(base * 1.1, base)
    assert found["low"] == pytest.approx(1.1) == pytest.approx(found["high"]) == found["ratio"]
    none = bench._ratio(base, base * np.array([1, 1, 1, 1, 1, 0.0]))
    assert all(math.isnan(value) for value in none.values())
    row = bench._mean(base, "rate_per_s")
    assert row["rate_per_s"] == pytest.approx(base.mean())
    assert row["low"] < row["rate_per_s"] < row["high"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A benchmark of few trials on one small scenario, whose baselines keep the flags they start from."""
    small = queue().with_workload(queue().workload.with_clients(4))
    small = small.model_copy(update={"loads": (8.0,), "drafter_gamma": 1, "server": Server(gamma=1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "load", lambda name: small)
        patch.setattr(policy, "OTHERS", ())
        patch.setattr(policy, "HIGH_LOAD", 8)
        patch.setattr(baselines, "with_own_flags", few_flags)
        patch.setattr(bench, "SEARCHED", (1.0,))
        patch.setattr(baselines, "STATIC_THETAS", (0.3,))
        return policy.run(tmp_path_factory.mktemp("bench"), trials=4, replications=6)


def few_flags(scenario: Scenario, flags: Any, score: Any) -> list[Arm]:
    return [
        baselines.plain(scenario),
        baselines.whole_blocks(baselines.OWN_FLAGS, scenario.server),
        baselines.aligned(baselines.ALIGNED_OWN_FLAGS, scenario, scenario.server),
    ]


def test_the_benchmark_has_both_tables(found: dict[str, Any]) -> None:
    assert set(found) == {"knee", "closed", "scenarios"}
    opened, closed = found["knee"], found["closed"]
    rows = {row["arm"]: row for row in opened["rows"]}
    assert set(bench.VERSUS.values()) <= set(rows) and opened["winner"] in rows
    assert all(set(row) == {"arm", "rate_per_s", "low", "high"} for row in rows.values())
    for key in ("vs_defaults", "vs_argmax_same_flags", "vs_start"):
        assert set(opened[key]) == {"ratio", "low", "high"}
    assert [at["of_knee"] for at in opened["goodput"]] == [0.8, 1.0, 1.2]
    for at in opened["goodput"]:
        assert at["rate_per_s"] == pytest.approx(at["of_knee"] * rows[opened["winner"]]["rate_per_s"])
        most = next(row for row in at["rows"] if row["arm"] == opened["winner"])
        assert most["difference"] == 0
        for row in at["rows"]:
            assert row["goodput_per_s"] + row["difference"] == pytest.approx(most["goodput_per_s"])
    assert closed["vs_start"]["ratio"] > 0 and closed["vs_argmax_own_flags"]["ratio"] > 0
    assert jsonable(found)["knee"]["rows"] == opened["rows"]


def test_people_see_every_arm_and_no_ratio_over_nothing(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    broken = found["knee"] | {"vs_defaults": {"ratio": math.nan, "low": math.nan, "high": math.nan}}
    console = Console(width=200)
    console.print(benches.knees(broken)[0].rich())
    console.print(benches.knees(found["knee"])[1].rich())
    lines = [
        line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(baselines.DEFAULT)
    ]
    assert len(lines) == 2 and lines[0].endswith("-") and "/s" in lines[1]
