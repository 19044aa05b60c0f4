"""Baselines with their own best server flags, and the selection of a policy over them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from dspark_simulator.scenario import Scenario, load
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.own_flags import own_flags
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import selected

SMOOTH = {"max_running_requests": (64, 128, 256), "chunked_prefill_size": (2048, 4096, 8192)}


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load("b300-v4flash")


def on(server: Server) -> Arm:
    return Arm("baseline", server)


def anything(server: Server) -> bool:
    return True


def distance(best: dict[str, int]) -> Any:
    """Scores of arms by how near their flags are to ``best``; what was scored is kept in its ``seen``."""

    def score(tried: list[Arm]) -> list[float]:
        seen.extend(arm.server for arm in tried)
        return [-float(sum(abs(getattr(arm.server, name) - value) for name, value in best.items())) for arm in tried]

    seen: list[Server] = []
    score.seen = seen  # type: ignore[attr-defined]
    return score


def test_every_flag_ends_at_its_best_value_and_no_server_is_scored_twice() -> None:
    score = distance({"max_running_requests": 128, "chunked_prefill_size": 2048})
    found = own_flags(on, Server(), SMOOTH, score, anything)
    assert found == Arm("baseline", Server(max_running_requests=128, chunked_prefill_size=2048))
    assert len(score.seen) == len({server.model_dump_json() for server in score.seen})


def test_in_a_tie_the_flags_to_start_from_stay() -> None:
    assert own_flags(on, Server(), SMOOTH, lambda tried: [0.0] * len(tried), anything) == Arm("baseline", Server())


def test_flags_that_only_pay_together_are_found_one_after_the_other() -> None:
    """The second flag pays once the first is set, and the first pays more once the second is."""

    def score(tried: list[Arm]) -> list[float]:
        return [arm.server.max_running_requests * arm.server.chunked_prefill_size for arm in tried]

    assert own_flags(on, Server(chunked_prefill_size=2048), SMOOTH, score, anything).server == Server(
        max_running_requests=256, chunked_prefill_size=8192
    )


def test_flags_without_room_are_not_tried() -> None:
    score = distance({"max_running_requests": 256, "chunked_prefill_size": 8192})

    def has_room(server: Server) -> bool:
        return server.max_running_requests * server.chunked_prefill_size <= 256 * 4096

    found = own_flags(on, Server(chunked_prefill_size=2048), SMOOTH, score, has_room)
    assert all(has_room(server) for server in score.seen) and has_room(found.server)


def test_pinned_flags_are_pinned_for_baselines_too(scenario: Scenario) -> None:
    pinned = {"max_running_requests": 96, "gamma": 3}
    flags = Space(scenario, pinned).flags()
    tried: list[Server] = []

    def score(candidates: list[Arm]) -> list[float]:
        tried.extend(arm.server for arm in candidates)
        return [float(arm.server.max_running_requests == 96) for arm in candidates]

    own = {arm.name: arm.server for arm in baselines.with_own_flags(scenario, flags, score)}
    assert set(own) == {baselines.PLAIN, baselines.OWN_FLAGS, baselines.ALIGNED_OWN_FLAGS}
    assert all(server.max_running_requests == 96 for server in own.values())
    assert {server.gamma for server in tried} <= {scenario.server.gamma, 3}
    assert not own[baselines.PLAIN].speculative and own[baselines.OWN_FLAGS].verify_mode == "static"


def test_the_start_has_room_and_the_mean_overhead(scenario: Scenario) -> None:
    space = Space(scenario, {"chunked_prefill_size": 4096})
    start = space.arm(baselines.START, space.start())
    assert (start.server.max_running_requests, start.server.chunked_prefill_size) == (512, 4096)
    live = scenario.live.centre()
    assert start.belief == space.beliefs[start.server.gamma].corrected(live.overhead_s, live.slope)
    assert (start.server.prefill_decode_interval, start.server.min_free_slots_delay) == (0, 4)
    other = space.start(Server(max_running_requests=64, chunked_prefill_size=2048))
    assert (other["max_running_requests"], other["chunked_prefill_size"]) == (64, 4096)


def test_flags_that_only_sglang_has_are_not_searched_for_vllm(scenario: Scenario) -> None:
    vllm = scenario.model_copy(update={"server": Server(engine="vllm")})
    space = Space(vllm, {})
    start = space.arm(baselines.START, space.start()).server
    assert (start.prefill_decode_interval, start.min_free_slots_delay) == (0, None)
    assert space.flags()["min_free_slots_delay"] == (None,)
    assert space.describe()["prefill_decode_interval"] == 0


def test_flags_that_no_search_tries_are_not_enqueued(scenario: Scenario) -> None:
    space = Space(scenario, {"gamma": 3})
    start = space.start(Server(max_running_requests=50, chunked_prefill_size=2048))
    assert start["max_running_requests"] == 50
    assert {"max_running_requests", "gamma"}.isdisjoint(space.searchable(start))
    assert space.searchable(start)["chunked_prefill_size"] == 2048


def rows(**throughput: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": arm, "load": 1.0, "seed": seed, "throughput_tok_s": value, "tpot_mean_s": 0.01}
            for arm, values in throughput.items()
            for seed, value in enumerate(values)
        ]
    )


BASE = [100.0, 110.0, 90.0, 105.0, 95.0, 100.0]


@pytest.mark.parametrize(
    ("start", "tuned", "winner"),
    [
        ([1.01] * 6, [1.02] * 6, "tuned"),
        ([1.01] * 6, [1.0101, 1.0099] * 3, "start"),
        ([0.99, 1.02] * 3, [0.98, 1.03] * 3, "stock"),
        ([1.0] * 6, [1.0] * 6, "stock"),
        ([0.9] * 6, [1.1] * 6, "tuned"),
    ],
)
def test_a_policy_replaces_what_it_beats_beyond_doubt(start: list[float], tuned: list[float], winner: str) -> None:
    found = rows(
        worse=[value / 2 for value in BASE],
        stock=BASE,
        start=[value * factor for value, factor in zip(BASE, start, strict=True)],
        tuned=[value * factor for value, factor in zip(BASE, tuned, strict=True)],
    )
    groups = [[Arm("worse", Server()), Arm("stock", Server())], [Arm("start", Server())], [Arm("tuned", Server())]]
    assert selected(found, "throughput", *groups).name == winner
