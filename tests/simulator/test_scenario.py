"""Scenario files: the packaged ones, and one-line errors with file, field, value and remedy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from dspark_simulator.costs import CurveCost
from dspark_simulator.deployment import Live
from dspark_simulator.scenario import DEFAULT, Scenario, json_schema, load, names, parse, seeds
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Closed
from sglang_dspark.errors import InputError
from tests.simulator.deployment import DOMAIN, a_scenario, drafter, step_cost

GONE = object()

GOOD: dict[str, Any] = {
    "name": "mine",
    "model": "a model",
    "hardware": "a GPU",
    "drafter_gamma": 7,
    "server": {"gamma": 5},
    "memory": {"kv_tokens": 1000, "kv_tokens_without_draft": 1200},
    "cost": {
        "kind": "curve",
        "curve": {
            "captured": {"tokens": [1, 64], "seconds": [0.01, 0.02]},
            "draft": {"requests": [1], "seconds": [0.001]},
        },
    },
    "acceptance": drafter(0.5).model_dump(mode="json"),
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
        "classes": [
            {
                "name": "chat",
                "domain": DOMAIN,
                "prompt": {"kind": "fixed", "tokens": 10},
                "output": {"kind": "fixed", "tokens": 10},
                "slo": {"ttft_s": 1.0, "tpot_s": 0.05},
            }
        ],
    },
    "loads": [1, 2],
    "run": {"requests": 100, "warmup_requests": 10},
}

CLOSED = {"kind": "closed", "clients": 4}
CLASS = ("workload", "classes", 0)
NAN = float("nan")


def changed(*changes: tuple[tuple[str | int, ...], Any]) -> str:
    """GOOD as YAML with fields set, or removed where the value is GONE."""
    content = copy.deepcopy(GOOD)
    for path, value in changes:
        at: Any = content
        for part in path[:-1]:
            at = at[part]
        if value is GONE:
            del at[path[-1]]
        else:
            at[path[-1]] = value
    return yaml.safe_dump(content)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "mine.yaml", Path())
    return str(caught.value)


def test_the_example_is_good() -> None:
    scenario = parse(changed(), "mine.yaml", Path())
    assert scenario.server.gamma == 5
    assert simulate(scenario, Arm("static", scenario.server)).unfinished == 0


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        (("colour",), 1, ("colour: unknown field", "1", "remove it")),
        (("server", "colour"), "red", ("server.colour: unknown field", "'red'", "check its spelling")),
        ((*CLASS, "slo", "p99"), 2, ("workload.classes.0.slo.p99: unknown field", "2")),
        (("workload", "arrivals", "rate_per_s"), -4.0, ("rate_per_s", "-4.0", "greater than 0")),
        (("workload", "arrivals", "rate_per_s"), NAN, ("rate_per_s", "nan", "finite")),
        (("cost", "overhead_s"), NAN, ("overhead_s", "nan", "finite")),
        (("cost", "curve", "captured", "seconds"), [0.01, NAN], ("captured.seconds.1", "nan", "finite")),
        (("cost", "curve", "captured", "tokens"), [64, 1], ("captured.tokens", "1 follows 64", "sort")),
        (("cost", "curve"), "none.csv", ("curve", "'none.csv'", "choose one of", "b300_v4flash_curve.csv")),
        (("cost", "kind"), "magic", ("cost", "'magic'", "'table', 'curve', 'roofline'")),
        ((*CLASS, "slo", "ttft_s"), NAN, ("workload.classes.0.slo.ttft_s", "nan", "finite")),
        (("live",), {"slope": [NAN, 1.0]}, ("live.slope.0", "nan", "finite")),
        (("live",), {"slope": [1.2, 1.0]}, ("slope", "1.2 down to 1.0", "give the lower end first")),
        (("run", "max_s"), NAN, ("run.max_s", "nan", "finite")),
        (("loads",), [NAN], ("loads.0", "nan", "finite")),
        (("server", "gamma"), 9, ("server.gamma", "9", "at most 7")),
        (("server", "gamma"), 99, ("server.gamma", "99", "less than or equal to 16")),
        (("server", "engine"), "trt", ("server.engine", "'trt'", "'sglang' or 'vllm'")),
        (("server", "max_running_requests"), 3000, ("server.max_running_requests", "3000", "1024")),
        (("server",), [1], ("server: [1] is not valid", "write fields, as name: value")),
        (("memory",), GONE, ("memory: missing", "add the field")),
        (("memory", "kv_tokens"), "many", ("memory.kv_tokens", "'many'", "integer")),
        (("memory", "kv_tokens"), 0, ("memory.kv_tokens", "0", "greater than or equal to 1")),
        ((*CLASS, "domain"), "poetry", ("domain", "'poetry'", f"use one of {DOMAIN}")),
        ((*CLASS, "prompt"), GONE, ("'chat'", "lengths", "trace")),
        (("run", "warmup_requests"), 100, ("warmup_requests", "100", "raise requests")),
        (("run", "requests"), 1.5, ("run.requests", "1.5", "integer")),
        (("loads",), "all", ("loads", "'all'", "tuple")),
        (("loads",), [-1], ("loads.0", "-1", "greater than 0")),
        (("replicas",), 0, ("replicas", "0", "greater than or equal to 1")),
        (("router",), "best", ("router", "'best'", "'round_robin'")),
        (("name",), None, ("name", "None", "string")),
    ],
)
def test_bad_fields(path: tuple[str | int, ...], value: Any, parts: tuple[str, ...]) -> None:
    message = refusal(changed((path, value)))
    assert "\n" not in message
    assert message.startswith("mine.yaml: ")
    for part in parts:
        assert part in message


def test_loads_of_a_closed_loop_are_whole() -> None:
    message = refusal(changed((("workload", "arrivals"), CLOSED), (("loads",), [1, 2.5])))
    assert message.startswith("mine.yaml: ")
    assert "loads" in message and "whole numbers" in message and "\n" not in message
    assert parse(changed((("loads",), [1, 2.5])), "mine.yaml", Path()).loads == (1.0, 2.5)


def test_fields_are_named_as_they_are_written() -> None:
    assert refusal(changed((("cost", "overhead_s"), NAN))).startswith("mine.yaml: cost.overhead_s: ")


def test_findings_across_fields_do_not_print_the_file() -> None:
    assert refusal(changed((("server", "gamma"), 9))).startswith("mine.yaml: server.gamma")


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    arrivals = {"kind": "trace", "path": "missing.csv"}
    with pytest.raises(InputError, match=r"missing\.csv: cannot be read .*; give the path of a trace file") as caught:
        parse(changed((("workload", "arrivals"), arrivals)), "mine.yaml", tmp_path)
    assert str(tmp_path / "missing.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_in_a_file_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,10,3\n2023-11-16 18:00:01,10,3\n"
    )
    file = tmp_path / "mine.yaml"
    file.write_text(changed((("workload", "arrivals"), {"kind": "trace", "path": "trace.csv"})))
    assert load(str(file)).workload.arrivals.mean_rate_per_s == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_files_without_fields(text: str) -> None:
    remedy = f"write a scenario, as `dspark scenario show {DEFAULT}` prints one"
    assert refusal(text) == f"mine.yaml: holds no fields; {remedy}"


@pytest.mark.parametrize("text", ["a: [1", "\t- x: {", "a: !!python/object/apply:os.getcwd []", "a: \x00"])
def test_files_that_are_not_yaml(text: str) -> None:
    message = refusal(text)
    assert message.startswith("mine.yaml: not YAML (")
    assert "\n" not in message


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"nowhere\.yaml: no such scenario or file; packaged are .*{DEFAULT}"):
        load(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InputError, match="no such scenario or file"):
        load(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml: cannot be read as text .*; give a YAML file"):
        load(str(binary))


def test_a_pool_that_holds_no_request() -> None:
    scenario = a_scenario(Closed(clients=2), kv_tokens=16, requests=10)
    with pytest.raises(InputError, match="memory: kv_tokens: 16 holds no request; give more than 16"):
        simulate(scenario, Arm("static", Server(gamma=7)))


def test_an_arm_beyond_the_drafter() -> None:
    scenario = a_scenario(Closed(clients=2), requests=10, drafter_gamma=4, server=Server(gamma=4))
    with pytest.raises(InputError, match="server: gamma: 7 is beyond the drafter's block; use at most 4"):
        simulate(scenario, Arm("static", Server(gamma=7)))


# What is packaged, and what is derived


@pytest.mark.parametrize("name", names())
def test_packaged_scenarios(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert parse(yaml.safe_dump(scenario.model_dump(mode="json")), name, Path()) == scenario


def test_a_scenario_on_a_packaged_base_has_its_fields() -> None:
    base, agents = load("b300-v4flash"), load("b300-v4flash-agentic")
    for field in ("model", "hardware", "server", "memory", "cost", "live", "acceptance", "drafter_gamma"):
        assert getattr(agents, field) == getattr(base, field)
    assert agents.workload != base.workload
    mine = parse("base: b300-v4flash-agentic\nname: mine\nloads: [2]", "mine.yaml", Path())
    assert mine == agents.model_copy(update={"name": "mine", "loads": (2.0,)})


@pytest.mark.parametrize("base", ["b400", "[b300-v4flash]", "7"])
def test_a_base_that_is_not_packaged_is_refused(base: str) -> None:
    with pytest.raises(InputError, match=r"mine\.yaml: base: .* is no packaged scenario; give one of b300-v4flash"):
        parse(f"base: {base}\nname: mine", "mine.yaml", Path())


def test_the_schema_knows_every_field() -> None:
    assert set(json_schema()["properties"]) == {*Scenario.model_fields, "base", "profile"}


def test_truths_fill_their_range() -> None:
    live = Live(overhead_s=(0.002, 0.006), slope=(0.9, 1.3), draft_fixed=(0.2, 0.8))
    np.testing.assert_allclose(live.centre(), (0.004, 1.1, 0.5))
    truths = np.array([live.draw(seed) for seed in range(4000)])
    low, high = np.array([0.002, 0.9, 0.2]), np.array([0.006, 1.3, 0.8])
    assert ((truths >= low) & (truths < high)).all()
    u = (truths - low) / (high - low)
    # Four standard errors of a uniform mean, and of no correlation.
    assert abs(u.mean(axis=0) - 0.5).max() < 4 / np.sqrt(12 * len(u))
    assert abs(np.triu(np.corrcoef(u.T), 1)).max() < 4 / np.sqrt(len(u))
    assert live.draw(7) == live.draw(7)


def test_the_split_of_draft_time_leaves_the_other_draws_of_a_seed_as_they_were() -> None:
    live = Live(overhead_s=(0.002, 0.006), slope=(0.9, 1.3))
    np.testing.assert_allclose(live.draw(7)[:2], (0.005786052145561492, 0.9629902271962749), rtol=1e-12)


def test_a_measured_draft_is_of_the_drafters_block_unless_it_says_its_own() -> None:
    for block, wanted in ((None, 5), (7, 7)):
        scenario = a_scenario(
            Closed(clients=2), requests=10, drafter_gamma=5, server=Server(gamma=5), cost=step_cost(draft_block=block)
        )
        assert isinstance(scenario.cost, CurveCost) and scenario.cost.draft_block == wanted


@pytest.mark.parametrize("name", ["b300-v4flash", "mi350x-v4flash"])
def test_v4_flash_serves_the_block_of_its_checkpoint(name: str) -> None:
    scenario = load(name)
    assert scenario.drafter_gamma == scenario.server.gamma == 5
    with pytest.raises(ValidationError, match="beyond the drafter's block; use at most 5"):
        Scenario.model_validate(scenario.model_dump() | {"server": {"gamma": 7}})


def test_seed_sets_never_meet() -> None:
    sets = [set(seeds(purpose, seed, 500)) for purpose in ("search", "select", "report") for seed in (0, 1, 2)]
    assert all(len(chosen) == 500 for chosen in sets)
    assert len(set.union(*sets)) == 9 * 500


@pytest.mark.parametrize("count", [3, 8, 32])
def test_truths_fill_each_range_evenly(count: int) -> None:
    """One value of each quantity in every part of its range, and no correlated quantities."""
    live = load("b300-v4flash").live
    truths = np.array(live.spread(count))
    for column, (_, (low, high)) in zip(truths.T, live, strict=True):
        assert sorted((column - low) / (high - low) * count) == pytest.approx(np.arange(count) + 0.5)
    if count > 3:
        assert np.abs(np.corrcoef(truths.T) - np.eye(len(truths.T))).max() < 0.4
