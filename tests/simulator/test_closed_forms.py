"""The simulator against queueing theory and closed forms."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from scipy import stats

from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.workloads import Closed, Poisson, Uniform
from sglang_dspark.policy import Fixed
from tests.simulator.deployment import Bench, a_class, a_scenario, drafter, step_cost

STEP_S, TOKEN_S, PREFILL_S = 0.01, 1e-4, 0.02
COST = step_cost(STEP_S, TOKEN_S, prefill_s=PREFILL_S, draft_s=0.0)


def plain(**flags: object) -> Arm:
    return Arm("no speculation", Server.model_validate({"speculative": False, **flags}))


def arrivals(scenario: Scenario, seed: int, count: int) -> np.ndarray:
    chunks = islice(scenario.workload.chunks(seed), -(-count // 1024))
    return np.concatenate([chunk["arrival_s"] for chunk in chunks])[:count]


# Closed loop: N / T(N)


@pytest.mark.parametrize(("clients", "captured"), [(1, 1), (8, 8), (10, 12), (48, 48)])
def test_sglang_throughput_of_a_closed_loop(clients: int, captured: int) -> None:
    """All clients prefill in one step and decode together, ``output - 1`` steps of T(N) each."""
    output = 200
    scenario = a_scenario(
        Closed(clients=clients), a_class(1, output), cost=COST, requests=5 * clients, warmup=2 * clients
    )
    result = simulate(scenario, plain())
    cycle_s = PREFILL_S + (output - 1) * (STEP_S + TOKEN_S * captured)
    assert result.throughput_tok_s == pytest.approx(clients * output / cycle_s, rel=1e-9)
    assert result.throughput_tok_s == pytest.approx(clients / (STEP_S + TOKEN_S * captured), rel=0.01)
    assert result.ttft.mean_s == pytest.approx(PREFILL_S)
    assert result.tpot.mean_s == pytest.approx(STEP_S + TOKEN_S * captured)


@pytest.mark.parametrize(("clients", "captured"), [(1, 1), (8, 8), (10, 16), (48, 48)])
def test_vllm_throughput_of_a_closed_loop(clients: int, captured: int) -> None:
    """A one-token prompt costs as much as a decoding request, so every step produces N tokens."""
    scenario = a_scenario(
        Closed(clients=clients), a_class(1, Uniform(min=1, max=60)), cost=COST, requests=30 * clients, warmup=clients
    )
    result = simulate(scenario, plain(engine="vllm"))
    assert result.throughput_tok_s == pytest.approx(clients / (STEP_S + TOKEN_S * captured), rel=1e-9)


def test_sglang_closed_loop_with_random_lengths() -> None:
    """Against an explicit loop: finished requests are replaced in a prefill step, otherwise all decode."""
    clients, requests, warmup = 16, 600, 100
    scenario = a_scenario(
        Closed(clients=clients), a_class(1, Uniform(min=2, max=60)), cost=COST, requests=requests, warmup=warmup
    )
    output = np.concatenate([chunk["output"] for chunk in islice(scenario.workload.chunks(3), 1)])
    sent, now_s, tokens = clients, 0.0, 0
    window: list[tuple[float, int]] = []
    left, fresh = output[:clients].copy(), clients
    while len(window) < 2:
        if fresh:
            now_s += PREFILL_S
            tokens += fresh
            left[clients - fresh :] -= 1
        else:
            now_s += STEP_S + TOKEN_S * clients
            tokens += clients
            left -= 1
        left = left[left > 0]
        fresh = clients - len(left)
        left = np.append(left, output[sent : sent + fresh])
        for bound in (warmup, requests):
            if sent <= bound < sent + fresh:
                window.append((now_s, tokens))
        sent += fresh
    (opened_s, before), (closed_s, after) = window
    result = simulate(scenario, plain(), seed=3)
    assert result.window_s == pytest.approx(closed_s - opened_s, rel=1e-9)
    assert result.throughput_tok_s == pytest.approx((after - before) / (closed_s - opened_s), rel=1e-9)


# Accepted length: (1 - p^(gamma + 1)) / (1 - p)


def moments(p: float, drafts: int) -> tuple[float, float]:
    """Mean and variance of the tokens per round: a geometric run of drafts, cut at ``drafts``, plus one."""
    lengths = np.arange(1, drafts + 2)
    chances = p ** (lengths - 1) * np.where(lengths <= drafts, 1 - p, 1.0)
    mean = float(lengths @ chances)
    assert mean == pytest.approx((1 - p ** (drafts + 1)) / (1 - p))
    return mean, float(lengths**2 @ chances) - mean**2


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("p", [0.3, 0.75, 0.95])
@pytest.mark.parametrize(
    ("gamma", "drafts", "policy"), [(1, 1, None), (7, 7, None), (16, 16, None), (7, 3, Fixed(length=3))]
)
def test_accepted_length_of_a_fixed_gamma(engine: str, p: float, gamma: int, drafts: int, policy: Fixed | None) -> None:
    mode = "compact" if policy else "static"
    server = Server.model_validate({"engine": engine, "gamma": gamma, "verify_mode": mode})
    scenario = a_scenario(Closed(clients=16), a_class(1, 2000), requests=48, warmup=16, p=p, drafter_gamma=16)
    result = simulate(scenario, Arm("fixed", server, policy), seed=gamma)
    mean, variance = moments(p, drafts)
    rounds = 32 * 2000 / mean
    assert abs(result.accepted_length - mean) < 4 * math.sqrt(variance / rounds)
    assert result.verify_length == drafts


def test_accepted_lengths_are_geometric() -> None:
    p, gamma, requests = 0.75, 7, 40
    bench = Bench(Server(gamma=gamma), acceptance=drafter(p), seed=2)
    for _ in range(requests):
        bench.send(1, 2000)
    bench.drain()
    counts = bench.metrics[0]["accepted_length"][1 : gamma + 2]
    chances = np.array([p**k * (1 - p) for k in range(gamma)] + [p**gamma])
    assert counts.sum() > 15_000
    assert stats.chisquare(counts, chances * counts.sum()).pvalue > 0.01


# Open loop: M/D/1 and Little's law


def at_batch_one(service_s: float, requests: int) -> Scenario:
    """A load of half the server's capacity."""
    rate_per_s = 0.5 / service_s
    return a_scenario(Poisson(rate_per_s=rate_per_s), a_class(1, 2), cost=step_cost(prefill_s=0.02), requests=requests)


def mean_wait_s(scenario: Scenario, service_s: float, seed: int) -> float:
    """Mean waiting time before a server with constant service time, by Lindley's recursion on the same arrivals."""
    waited_s, sum_s = 0.0, 0.0
    for gap_s in np.diff(arrivals(scenario, seed, scenario.run.requests)):
        waited_s = max(waited_s + service_s - gap_s, 0.0)
        sum_s += waited_s
    return sum_s / scenario.run.requests


@pytest.mark.parametrize(("engine", "prefill_s", "service_s"), [("sglang", 0.02, 0.03), ("vllm", 0.01, 0.02)])
def test_waiting_times_follow_lindley(engine: str, prefill_s: float, service_s: float) -> None:
    """One request at a time, each a prefill and one decoding step: the recursion on the same arrivals."""
    requests = 10_000
    scenario = at_batch_one(service_s, requests)
    result = simulate(scenario, plain(engine=engine, max_running_requests=1), seed=1)
    waited_s = mean_wait_s(scenario, service_s, seed=1)
    assert result.ttft.mean_s - prefill_s == pytest.approx(waited_s, rel=1e-9)
    assert result.tpot.mean_s == pytest.approx(0.01)
    assert result.utilisation == pytest.approx(0.5, rel=0.02)


def test_waiting_time_of_m_d_1() -> None:
    """Pollaczek and Khinchine: rho S / (2 (1 - rho)). The standard error of the mean over five seeds is 0.8 %.

    One seed is simulated, and the others follow by the recursion that the simulation agrees with.
    """
    service_s = 0.03
    scenario = at_batch_one(service_s, 50_000)
    waited_s = [mean_wait_s(scenario, service_s, seed) for seed in range(5)]
    simulated_s = simulate(scenario, plain(max_running_requests=1), seed=0).ttft.mean_s - 0.02
    assert simulated_s == pytest.approx(waited_s[0], rel=1e-9)
    assert np.mean(waited_s) == pytest.approx(service_s / 2, rel=0.02)


def in_system(log: list[StepLog], at_s: np.ndarray) -> float:
    """Mean requests in the system over the steps of a log.

    A step starts with the requests that the one before left, running or queued, and those that came since; they and the
    ones that come while it runs stay to its end. Between steps nobody may wait.
    """
    start_s, step_s = (np.array([getattr(step, name) for step in log]) for name in ("start_s", "step_s"))
    left = np.array([step.running + step.queued for step in log])
    end_s = start_s + step_s
    idle = start_s[1:] - end_s[:-1] > 1e-9
    assert not left[:-1][idle].any()
    # An arrival that wakes an idle engine may be a rounding error later than the step that it starts.
    came = np.searchsorted(at_s, start_s + 1e-9)
    at_start = np.diff(came, prepend=0) + np.concatenate([[0], left[:-1]])
    total_s = float(at_start @ step_s)
    for i in range(len(log)):
        during = at_s[came[i] : np.searchsorted(at_s, end_s[i])]
        total_s += (end_s[i] - during).sum()
    return total_s / float(end_s[-1])


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize(("rate_per_s", "max_running"), [(20.0, 48), (18.0, 3)])
def test_littles_law(engine: str, rate_per_s: float, max_running: int) -> None:
    requests, output = 12_000, 10
    scenario = a_scenario(Poisson(rate_per_s=rate_per_s), a_class(1, output), cost=COST, requests=requests)
    log: list[StepLog] = []
    arm = plain(engine=engine, max_running_requests=max_running)
    result = simulate(scenario, arm, seed=4, log=log)
    time_in_system_s = result.ttft.mean_s + (output - 1) * result.tpot.mean_s
    mean = in_system(log, arrivals(scenario, 4, requests + 1000))
    assert mean == pytest.approx(rate_per_s * time_in_system_s, rel=0.02)


def test_littles_law_of_the_result() -> None:
    scenario = a_scenario(Poisson(rate_per_s=18.0), a_class(1, 10), cost=COST, requests=12_000)
    result = simulate(scenario, plain(max_running_requests=3), seed=4)
    mean = result.running * result.utilisation + result.queued
    assert mean == pytest.approx(18.0 * (result.ttft.mean_s + 9 * result.tpot.mean_s), rel=0.02)


# Overhead of a server and of its requests


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_overheads_add_up_by_server_and_request(engine: str, speculative: bool) -> None:
    """Every step includes the overhead per step and per request, decoding or joining."""
    host = {"overhead_s": 0.004, "request_s": 1e-4, "plain": {"overhead_s": 0.001, "request_s": 3e-4}}
    step_s, request_s = (0.004, 1e-4) if speculative else (0.001, 3e-4)
    fields = {"engine": engine, "speculative": speculative, "gamma": 3, "max_running_requests": 64}
    taken = []
    for extra in ({}, host):
        cost = step_cost(STEP_S, 0.0, prefill_s=PREFILL_S, draft_s=0.001, **extra)
        bench = Bench(Server.model_validate(fields), cost=cost, acceptance=drafter(0.0))
        for _ in range(5):
            bench.send(1, 100)
        taken.append(bench.steps(3))
        bench.send(40, 100)
        taken[-1] += bench.steps(3)
    bare, whole = taken
    assert [step.kind for step in bare] == [step.kind for step in whole]
    # The prompt joins five requests in vLLM's step and has one of its own in SGLang's.
    requests = [5, 5, 5, 6 if engine == "vllm" else 1, 6, 6]
    for before, after, count in zip(bare, whole, requests, strict=True):
        assert after.step_s - before.step_s == pytest.approx(step_s + count * request_s, rel=1e-9)


def test_a_closed_loop_has_all_its_clients_however_few_are_measured() -> None:
    scenario = a_scenario(Closed(clients=32), a_class(1, 100), cost=COST, requests=4)
    log: list[StepLog] = []
    simulate(scenario, plain(), log=log)
    assert max(step.running for step in log) == 32
