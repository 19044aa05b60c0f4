"""Routers alone and in front of replicas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dspark_simulator.prefixes import Block, Prefixes
from dspark_simulator.router import ROUTERS
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.workloads import Closed, Poisson
from tests.simulator.deployment import a_class, a_scenario, step_cost, totals

PLAIN = Arm("no speculation", Server(speculative=False))
ONE_AT_A_TIME = Arm("one at a time", Server(speculative=False, max_running_requests=1))


def test_round_robin_takes_turns() -> None:
    route = ROUTERS["round_robin"]
    assert [route(9, request, [5, 0, 0], []) for request in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_least_loaded_takes_the_least() -> None:
    route = ROUTERS["least_loaded"]
    assert [route(9, 4, outstanding, []) for outstanding in ([3, 1, 2], [0, 0, 0], [2, 1, 1])] == [1, 0, 1]


@pytest.mark.parametrize(
    ("outstanding", "holders", "chosen"),
    [
        ([3, 1, 2], [], 1),
        ([3, 1, 2], [2, 0], 2),
        ([3, 3, 2], [1, 0], 0),
        # As far apart as they may be, and one further.
        ([64, 0, 1], [0], 0),
        ([65, 0, 1], [0], 1),
        # Far apart in requests, not in proportion.
        ([300, 200, 201], [0], 0),
        ([301, 200, 201], [0], 1),
    ],
)
def test_prefix_aware_follows_prefixes_while_loads_allow(
    outstanding: list[int], holders: list[int], chosen: int
) -> None:
    assert ROUTERS["prefix_aware"](9, 4, outstanding, holders) == chosen


def test_prefixes_are_held_where_they_were_used() -> None:
    """Two replicas and eight prefixes of 90 % of the prompt. Served without an order each replica has to read each
    prefix once; prefix-aware, only one of them does."""
    read = {}
    for router in ("round_robin", "prefix_aware"):
        klass = a_class(100, 2).model_copy(update={"cached_prefix": 0.9, "prefixes": 8})
        scenario = a_scenario(Poisson(rate_per_s=1.0), klass, requests=400, replicas=2, router=router)
        log: list[StepLog] = []
        simulate(scenario, PLAIN, seed=5, log=log)
        prompts = [step.prefill_tokens for step in log if step.prefill_tokens]
        read[router] = sum(tokens == 100 for tokens in prompts)
        assert set(prompts) <= {10, 20, 30, 100, 110, 200}
    assert read == {"round_robin": 16, "prefix_aware": 8}


def test_the_least_recently_used_prefix_makes_room() -> None:
    held, (a, b, c) = Prefixes(100), (Block(0, number) for number in range(3))
    assert [held.use(((block, 40),), 0) for block in (a, b, a, c)] == [0, 0, 40, 0]
    assert b not in held and a in held and c in held
    # Running requests take the room of prefixes.
    assert held.use(((c, 40),), 50) and a not in held and c in held


def test_the_end_of_a_prompt_is_evicted_before_its_start() -> None:
    held, (a, b, c, d) = Prefixes(100), (Block(0, number) for number in range(4))
    assert held.use(((a, 40), (b, 40)), 0) == 0
    assert held.use(((a, 40), (c, 20)), 0) == 40
    # 140 tokens in 100: b was used longest ago.
    assert held.use(((d, 40),), 0) == 0
    assert b not in held and all(block in held for block in (a, c, d))
    assert held.hit(((a, 40), (b, 40), (c, 20))) == 40
    # Only leading blocks count.
    assert held.hit(((b, 40), (a, 40))) == 0
    held = Prefixes(100)
    assert held.use(((a, 40), (b, 40)), 0) == held.use(((d, 40),), 0) == 0
    assert a in held and b not in held


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_random_is_uniform(seed: int) -> None:
    route = ROUTERS["random"]
    chosen = np.array([route(seed, request, [9, 0, 0, 0, 0], []) for request in range(20_000)])
    assert stats.chisquare(np.bincount(chosen, minlength=5)).pvalue > 1e-3
    pairs = np.bincount(chosen[1:] * 5 + chosen[:-1], minlength=25)
    assert stats.chisquare(pairs).pvalue > 1e-3


@pytest.mark.parametrize("router", ["round_robin", "random", "least_loaded", "prefix_aware"])
def test_requests_reach_their_replicas(router: str) -> None:
    """Prompts of one token: the prefilled tokens of a replica are its requests."""
    requests, replicas = 3000, 3
    scenario = a_scenario(
        Poisson(rate_per_s=60.0), a_class(1, 5), requests=requests, replicas=replicas, router=router, cost=step_cost()
    )
    log: list[StepLog] = []
    result = simulate(scenario, PLAIN, seed=2, log=log)
    assert result.unfinished == 0
    counts = totals(log, "prefill_tokens", replicas)
    assert sum(counts) >= requests
    if router == "round_robin":
        assert max(counts) - min(counts) <= 1
    elif router == "random":
        chosen = [ROUTERS["random"](2, request, [0] * replicas, []) for request in range(int(sum(counts)))]
        assert counts == np.bincount(chosen, minlength=replicas).tolist()


def test_least_loaded_keeps_replicas_level() -> None:
    """A closed loop of four clients on four replicas: each has exactly one, so no request waits or shares a step."""
    scenario = a_scenario(Closed(clients=4), a_class(1, 5), requests=400, replicas=4, router="least_loaded")
    log: list[StepLog] = []
    result = simulate(scenario, PLAIN, log=log)
    assert max(step.running + step.queued for step in log) == 1
    assert result.ttft.mean_s == pytest.approx(0.02)
    assert len(set(totals(log, "prefill_tokens", 4))) == 1


def test_random_routing_makes_independent_queues() -> None:
    """Four replicas at four times the rate: each is an M/D/1 queue with waiting time rho S / 2 (1 - rho)."""
    service_s, rho, replicas = 0.03, 0.5, 4
    rate_per_s = rho / service_s
    waited_s = {}
    for count, router in ((1, "random"), (replicas, "random"), (replicas, "least_loaded")):
        scenario = a_scenario(
            Poisson(rate_per_s=count * rate_per_s), a_class(1, 2), requests=60_000, replicas=count, router=router
        )
        result = simulate(scenario, ONE_AT_A_TIME, seed=3)
        waited_s[count, router] = result.ttft.mean_s - 0.02
        assert result.utilisation == pytest.approx(rho, rel=0.03)
        assert result.throughput_tok_s == pytest.approx(2 * count * rate_per_s, rel=0.03)
    # Four standard errors.
    assert waited_s[1, "random"] == pytest.approx(service_s / 2, rel=0.065)
    assert waited_s[replicas, "random"] == pytest.approx(service_s / 2, rel=0.065)
    assert waited_s[replicas, "least_loaded"] < 0.3 * service_s / 2
