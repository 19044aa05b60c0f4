"""Conservation, determinism, common random numbers, and invariants of random scenarios."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dspark_simulator import draws, simulation
from dspark_simulator.acceptance_model import propose
from dspark_simulator.scenario import Run, Scenario, load
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.state import Record
from dspark_simulator.workloads import Arrivals, Closed, Gamma, Poisson, RequestClass, Trace, Uniform
from sglang_dspark.errors import InputError
from sglang_dspark.policy import AnyPolicy, Argmax, Fixed, Greedy, NoDraft, Static, Threshold
from sglang_dspark.policy.belief import MAX_REQUESTS
from tests.simulator.deployment import DOMAIN, Bench, a_class, a_scenario, drafter, step_cost, uneven_drafter

PLAIN = Server(speculative=False)
COMPACT = Server(gamma=7, verify_mode="compact", max_running_requests=16)
ARMS = (
    Arm("static", Server(gamma=7, max_running_requests=16)),
    Arm("argmax", COMPACT, Argmax(fill=True)),
    Arm("threshold", COMPACT, Threshold(running=(1, 16), theta=(0.1, 0.5))),
    Arm("oracle", COMPACT, oracle=True),
    Arm("plain", PLAIN),
    Arm("vllm", COMPACT.model_copy(update={"engine": "vllm"}), Argmax()),
)


def small(**fields: Any) -> Scenario:
    lengths = {"prompt": Uniform(min=1, max=200), "output": Uniform(min=1, max=80)}
    given = {"requests": 200, "warmup": 20, "kv_tokens": 3000, "cost": step_cost(0.01, 1e-5), **fields}
    return a_scenario(Poisson(rate_per_s=12.0), a_class(**lengths), **given)


def outcome(scenario: Scenario, arm: Arm, seed: int = 0) -> str:
    """A result and its step log, every float to its last bit."""
    log: list[StepLog] = []
    return repr((simulate(scenario, arm, seed=seed, log=log), log))


# Determinism


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_same_seed_same_outcome(arm: Arm) -> None:
    scenario = small(replicas=2, router="random")
    assert outcome(scenario, arm, 5) == outcome(scenario, arm, 5)
    assert outcome(scenario, arm, 5) != outcome(scenario, arm, 6)


def test_arms_do_not_depend_on_each_other() -> None:
    scenario = small()
    forward = [outcome(scenario, arm) for arm in ARMS]
    backward = [outcome(scenario, arm) for arm in reversed(ARMS)]
    assert forward == backward[::-1]


def test_another_process_finds_the_same() -> None:
    code = "from tests.simulator.test_simulation import ARMS, outcome, small; print(outcome(small(), ARMS[1]))"
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True)
    assert other.stdout.strip() == outcome(small(), ARMS[1])


# Conservation


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("kv_tokens", [300, 100_000])
def test_tokens_and_memory_are_conserved(engine: str, kv_tokens: int) -> None:
    """In every step, emitted tokens equal those of all requests, and KV in use equals that of the slots."""
    rng = np.random.default_rng(11)
    server = Server.model_validate({"engine": engine, "gamma": 3, "schedule_conservativeness": 0.2})
    bench = Bench(server, kv_tokens=kv_tokens)
    outputs: list[int] = []
    for _ in range(400):
        for _ in range(rng.poisson(0.4)):
            outputs.append(int(rng.integers(1, 60)))
            bench.send(int(rng.integers(1, 100)), outputs[-1], cached=int(rng.integers(0, 20)))
        bench.step()
        check_books(bench, outputs)
    bench.drain()
    metrics = bench.metrics[0]
    assert metrics["aborted"].sum() == 0
    assert (metrics["retracted"] > 0) == (kv_tokens == 300)
    assert metrics["tokens"] == sum(outputs)
    assert metrics["finished"].sum() == len(outputs)
    assert bench.state[0]["kv_used"] == 0


def check_books(bench: Bench, outputs: list[int]) -> None:
    s, metrics, waiting = bench.state[0], bench.metrics[0], bench.waiting()
    running, slots = int(s["running"]), int(s["running"]) + int(s["partial"])
    inside = {*s["id"][:slots].tolist(), *waiting["id"].tolist()}
    assert len(inside) == slots + len(waiting)
    in_flight = s["produced"][:slots].sum() + waiting["produced"].sum()
    assert metrics["tokens"] == in_flight + sum(out for i, out in enumerate(outputs) if i not in inside)
    assert s["kv_used"] == s["allocated"][:slots].sum() <= bench.flags[0]["kv_capacity"]
    assert (s["allocated"][:slots] >= s["context"][:slots]).all()
    assert slots <= bench.flags[0]["max_running"]
    assert metrics["finished"].sum() + metrics["aborted"].sum() + len(inside) == len(outputs)
    assert (s["context"][:running] == s["prompt"][:running] + s["produced"][:running] - 1).all()


def test_a_full_queue_refuses_and_clients_go_on() -> None:
    """A refused client sends its next request once the scheduler has answered, between two steps."""
    scenario = a_scenario(Closed(clients=5), a_class(1, 2), requests=400)
    server = Server(speculative=False, max_running_requests=1, max_queued_requests=2)
    log: list[StepLog] = []
    result = simulate(scenario, Arm("limited", server), log=log)
    # 0 and 1 find room, 2 to 4 none. After the prefill of 0 there is room for 5, none for 6 and 7. From then on
    # five are refused in the two steps of each that is served.
    assert (result.unfinished, result.requests) == (0, 400)
    assert result.aborted == pytest.approx(5 * (400 - result.aborted), rel=0.03)
    assert [(step.kind, step.running, step.queued) for step in log[:3]] == [
        ("prefill", 1, 1),
        ("decode", 0, 2),
        ("prefill", 1, 1),
    ]
    assert simulate(scenario, Arm("open", Server(speculative=False, max_running_requests=1))).aborted == 0


def test_refused_requests_of_an_open_loop_met_nothing() -> None:
    """On an overloaded server, a served request waited for at most the requests of a full queue."""
    scenario = a_scenario(Poisson(rate_per_s=100), a_class(1, 10), requests=300)
    server = Server(speculative=False, max_running_requests=2)
    limited, unlimited = (
        simulate(scenario, Arm("any", server.model_copy(update={"max_queued_requests": most}))) for most in (4, None)
    )
    assert limited.aborted > 100
    assert limited.attainment == limited.classes[0].good / 300 < 0.7
    assert limited.ttft.p99_s < 0.4 < unlimited.ttft.p50_s


def test_prompts_that_can_never_fit_cost_the_others_nothing() -> None:
    usual = a_class(100, 20, name="usual", share=99)
    endless = a_class(20_000, 20, name="endless", share=1)
    good = [
        simulate(a_scenario(Poisson(rate_per_s=20), *classes, requests=600, kv_tokens=10_000), ARMS[0]).goodput_per_s
        for classes in ((usual,), (usual, endless))
    ]
    assert good[1] == pytest.approx(0.99 * good[0], rel=0.02)


def test_goodput_and_throughput_count_the_same_tokens() -> None:
    """A closed loop in lockstep, whose window holds whole requests only."""
    scenario = a_scenario(Closed(clients=8), a_class(1, 50), requests=80, warmup=16)
    result = simulate(scenario, Arm("static", Server(gamma=7, max_running_requests=8, speculative=False)))
    assert result.throughput_tok_s * result.window_s == pytest.approx(64 * 50)
    assert result.goodput_tok_s == pytest.approx(result.throughput_tok_s)
    assert result.goodput_per_s * result.window_s == pytest.approx(64)


# Common random numbers


def test_the_acceptance_of_a_token_is_its_own() -> None:
    """Acceptance of a token is the same in every block, from any start and with any gamma.

    Here without offsets by position, which would lower or raise the chance that the same draw is held against.
    """
    model = uneven_drafter().compile([DOMAIN])
    survival = np.empty(16, np.float32)
    for request in range(40):
        key = np.uint64(draws.stream(4, request))
        alone = np.array([propose(model, key, 0, index, 1, survival) for index in range(1, 200)])
        assert 0 < alone.sum() < len(alone)
        for gamma in (3, 7, 16):
            for start in range(1, 200 - gamma):
                block = alone[start - 1 : start - 1 + gamma]
                run = gamma if block.all() else int(block.argmin())
                assert propose(model, key, 0, start, gamma, survival) == run


def rounds_by_request(max_running: int, policy: AnyPolicy | None = None) -> dict[int, list[int]]:
    """Output tokens after each round of each request, from a server that runs ``max_running`` at once."""
    mode = "static" if policy is None else "compact"
    server = Server.model_validate({"gamma": 7, "verify_mode": mode, "max_running_requests": max_running})
    bench = Bench(server, acceptance=uneven_drafter(), policy=policy, seed=9)
    for output in np.random.default_rng(1).integers(100, 300, 64).tolist():
        bench.send(1, output)
    seen: dict[int, list[int]] = {}
    for _ in range(100_000):
        step = bench.step()
        if step.step_s == 0.0:
            return seen
        for request, produced in bench.produced().items():
            if step.kind == "decode":
                seen.setdefault(request, []).append(produced)
    raise AssertionError("still busy")


def test_acceptances_do_not_depend_on_the_batch() -> None:
    alone = rounds_by_request(1)
    assert len(alone) == 64
    assert rounds_by_request(8) == alone
    assert rounds_by_request(64) == alone
    assert rounds_by_request(8, Fixed(length=7)) == alone
    assert rounds_by_request(8, Fixed(length=6)) != alone


def test_accepted_length_does_not_depend_on_the_batch() -> None:
    scenario = a_scenario(Closed(clients=64), a_class(1, Uniform(min=100, max=300)), requests=600, warmup=100)
    lengths = [
        simulate(scenario, Arm("static", Server(gamma=7, max_running_requests=running))).accepted_length
        for running in (8, 64)
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.01)


# Windows and ends


def a_trace(tmp_path: Path, *rows: tuple[float, int, int]) -> Trace:
    """A trace of (seconds, prompt, output)."""
    path = tmp_path / "trace.csv"
    lines = [f"2023-11-16 18:00:{time:010.7f},{prompt},{output}" for time, prompt, output in rows]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    return Trace(path=path)


def test_a_request_waits_for_the_step_that_runs(tmp_path: Path) -> None:
    """Prefills of 20 ms and decoding steps of 10 ms; the second request comes within the first's second step."""
    arrivals = a_trace(tmp_path, (0.0, 5, 4), (0.025, 7, 2), (10.0, 1, 1))
    log: list[StepLog] = []
    result = simulate(a_scenario(arrivals, a_class(None, None), requests=2), Arm("plain", PLAIN), log=log)
    seen = [(step.kind, step.running, step.queued, step.kv_tokens, step.prefill_tokens) for step in log[:5]]
    assert seen == [
        ("prefill", 1, 0, 5, 5),
        ("decode", 1, 0, 6, 0),
        ("prefill", 2, 0, 13, 7),
        ("decode", 1, 0, 7, 0),
        ("decode", 0, 0, 0, 0),
    ]
    assert [step.start_s for step in log[:5]] == pytest.approx([0.0, 0.02, 0.03, 0.05, 0.06])
    # First tokens at 20 and 50 ms, last ones at 70 and 60 ms.
    assert result.ttft.mean_s == pytest.approx((0.02 + 0.025) / 2)
    assert result.tpot.mean_s == pytest.approx((0.05 / 3 + 0.01) / 2)


def test_prefix_hits_of_a_class_reach_the_engine() -> None:
    scenario = a_scenario(Closed(clients=1), a_class(100, 2, cached_prefix=0.25), requests=5)
    log: list[StepLog] = []
    simulate(scenario, Arm("plain", PLAIN), log=log)
    assert {step.prefill_tokens for step in log if step.kind == "prefill"} == {75}
    assert {step.kv_tokens for step in log if step.kind == "prefill"} == {100}


def test_requests_at_one_time_all_arrive(tmp_path: Path) -> None:
    """The third time is one to which the waits before do not add up exactly."""
    times = (0.0, 0.495, 1.804, 1.804, 2.804)
    scenario = a_scenario(a_trace(tmp_path, *((time, 10, 3) for time in times)), a_class(None, None), requests=5)
    assert simulate(scenario, ARMS[0]).unfinished == 0


def test_a_run_that_ends_within_its_warm_up_says_so() -> None:
    with pytest.raises(ValueError, match=r"by hand: run\.max_s: 1e-06 ends within the warm-up; raise it or lower"):
        simulate(small(max_s=1e-6), ARMS[0])


def test_max_s_cuts_a_run_short() -> None:
    result = simulate(small(max_s=5.0), ARMS[0])
    assert result.simulated_s == 5.0
    assert 0 < result.unfinished < 180


def test_an_overload_ends() -> None:
    """Retracted requests queue behind an endlessly growing queue; the run must still end before ``max_s``."""
    scenario = a_scenario(
        Poisson(rate_per_s=300.0),
        a_class(Uniform(min=1, max=30), Uniform(min=1, max=60)),
        requests=300,
        kv_tokens=120,
        max_s=300.0,
    )
    arm = Arm("static", Server(gamma=7, schedule_conservativeness=0.1))
    assert simulate(scenario, arm).simulated_s < 300.0


def test_fewer_requests_than_clients() -> None:
    """All are sent at once, so that no time passes between the first measured request and the one after the last."""
    scenario = a_scenario(Closed(clients=8), requests=7)
    assert math.isfinite(simulate(scenario, ARMS[0]).throughput_tok_s)


def test_requests_that_never_fit_count_as_not_met_in_their_class() -> None:
    long = a_class(500, 10, name="long", share=1.0)
    result = simulate(a_scenario(Closed(clients=4), a_class(5, 10), long, requests=200, kv_tokens=100), ARMS[0])
    chat, aborted = result.classes
    assert (aborted.aborted, aborted.good, aborted.attainment) == (aborted.requests, 0, 0.0)
    assert (chat.aborted, chat.attainment) == (0, 1.0)
    assert result.aborted == aborted.requests and chat.requests + aborted.requests == result.requests == 200
    assert result.attainment == chat.requests / 200


def test_requests_that_were_not_sent_in_time_count_as_not_met() -> None:
    result = simulate(a_scenario(Poisson(rate_per_s=1.0), requests=200, max_s=100.0), ARMS[0])
    assert result.attainment == sum(klass.good for klass in result.classes) / 200 < 0.7
    assert sum(klass.requests for klass in result.classes) == 200


def test_a_closed_loop_whose_requests_never_fit_ends() -> None:
    scenario = a_scenario(Closed(clients=2), a_class(50, 10), requests=20, kv_tokens=40)

    def too_long(*_: object) -> None:
        raise TimeoutError("simulated time stands still")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        assert simulate(scenario, ARMS[0]).aborted == 20
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Random scenarios


@st.composite
def servers(draw: st.DrawFn) -> Server:
    running = draw(st.sampled_from([1, 2, 5, 48]))
    chunk = draw(st.sampled_from([4, 64, 16384]))
    return Server(
        engine=draw(st.sampled_from(["sglang", "vllm"])),
        speculative=draw(st.booleans()),
        gamma=draw(st.sampled_from([1, 3, 7, 16])),
        verify_mode=draw(st.sampled_from(["static", "cap-accept", "compact"])),
        max_running_requests=running,
        capture_requests=draw(st.sampled_from([1, 4, 512])),
        capture_tokens=draw(st.sampled_from([1, 20, 1024])),
        chunked_prefill_size=chunk,
        max_prefill_tokens=draw(st.sampled_from([1, 20, 16384])),
        enable_mixed_chunk=chunk > running and draw(st.booleans()),
        schedule_conservativeness=draw(st.sampled_from([0.05, 1.0, 2.0])),
        confidence_lag_steps=draw(st.sampled_from([1, 2])),
    )


POLICIES: list[AnyPolicy | None] = [
    None,
    NoDraft(),
    Fixed(length=0),
    Fixed(length=3),
    Static(theta=0.3),
    Greedy(),
    Argmax(),
    Argmax(fill=True),
    Threshold(running=(1, 16), theta=(0.1, 0.5), min_length=1, max_length=5, fill=True, off_above=20),
    Threshold(running=(4,), theta=(0.9,), weight=(1.0, 2.0), price_per_token=1e-3),
]


@st.composite
def arms(draw: st.DrawFn) -> Arm:
    server = draw(servers())
    if not server.speculative:
        return Arm("plain", server)
    oracle = draw(st.integers(0, 5)) == 0
    return Arm("any", server, draw(st.sampled_from(POLICIES)), stock=draw(st.booleans()), oracle=oracle)


def lengths(longest: int) -> st.SearchStrategy[Uniform]:
    return st.builds(lambda ends: Uniform(min=min(ends), max=max(ends)), st.tuples(*[st.integers(1, longest)] * 2))


@st.composite
def classes(draw: st.DrawFn) -> RequestClass:
    return a_class(
        draw(lengths(80)),
        draw(lengths(60)),
        name=str(draw(st.uuids())),
        share=draw(st.sampled_from([0.1, 1.0])),
        cached_prefix=draw(st.sampled_from([0.0, 0.5, 1.0])),
        max_new_tokens=draw(st.sampled_from([0, 100])),
    )


# Requests that fit even the smallest pool, so that simulated time advances.
TINY = a_class(Uniform(min=1, max=5), Uniform(min=1, max=5), name="tiny")

ARRIVALS: st.SearchStrategy[Arrivals] = st.one_of(
    st.builds(Closed, clients=st.integers(1, 40)),
    st.builds(Poisson, rate_per_s=st.floats(0.3, 200.0)),
    st.builds(Gamma, rate_per_s=st.floats(0.3, 200.0), burstiness=st.floats(1.0, 5.0)),
)


# A scenario that fails may run to max_s, so it is not shrunk.
@settings(
    max_examples=120,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(
    arm=arms(),
    arrivals=ARRIVALS,
    mix=st.lists(classes(), max_size=3, unique_by=lambda klass: klass.name),
    kv_tokens=st.sampled_from([35, 100, 300, 100_000]),
    requests=st.integers(41, 100),
    replicas=st.integers(1, 3),
    router=st.sampled_from(["random", "round_robin", "least_loaded"]),
    p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**40),
)
def test_any_scenario(
    arm: Arm,
    arrivals: Arrivals,
    mix: list[RequestClass],
    kv_tokens: int,
    requests: int,
    replicas: int,
    router: str,
    p: float,
    seed: int,
) -> None:
    scenario = a_scenario(
        arrivals,
        TINY,
        *mix,
        requests=requests,
        kv_tokens=kv_tokens,
        p=p,
        replicas=replicas,
        router=router,
        drafter_gamma=16,
        max_s=1e4,
    )
    log: list[StepLog] = []
    result = simulate(scenario, arm, seed=seed, log=log)
    server = arm.server
    assert result.unfinished == 0
    assert sum(klass.requests for klass in result.classes) == requests == result.requests
    assert 0 <= result.throughput_tok_s < math.inf
    assert all(0 <= step.kv_tokens <= kv_tokens for step in log)
    assert all(step.running <= server.max_running_requests for step in log)
    assert all(step.prefill_tokens > 0 for step in log if step.kind != "decode")
    assert all(0 <= step.cap <= server.gamma * server.max_running_requests for step in log)
    assert all(before.start_s <= after.start_s for before, after in itertools.pairwise(log))
    if not math.isnan(result.verify_length):
        assert 0 <= result.verify_length <= (server.gamma if server.speculative else 0)
        assert 1 <= result.accepted_length <= result.verify_length + 1 + 1e-9
    if kv_tokens == 100_000:
        assert result.retracted == result.aborted == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    server=servers(),
    policy=st.sampled_from([policy for policy in POLICIES if policy is None or not policy.needs_belief]),
    stock=st.booleans(),
    kv_tokens=st.sampled_from([150, 300, 100_000]),
    requests=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 60), st.integers(1, 40), st.integers(0, 60)),
        min_size=1,
        max_size=40,
    ),
    p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_any_batch(
    server: Server,
    policy: AnyPolicy | None,
    stock: bool,
    kv_tokens: int,
    requests: list[tuple[int, int, int, int]],
    p: float,
) -> None:
    if not server.speculative:
        policy, stock = None, False
    bench = Bench(server, policy=policy, stock=stock, kv_tokens=kv_tokens, acceptance=drafter(p))
    outputs: list[int] = []
    for steps_before, prompt, output, cached in requests:
        for _ in range(steps_before):
            bench.step()
            check_books(bench, outputs)
        bench.send(prompt, output, cached=cached)
        outputs.append(output)
    bench.drain()
    check_books(bench, outputs)
    metrics = bench.metrics[0]
    assert metrics["aborted"].sum() == 0
    assert metrics["tokens"] == sum(outputs)
    assert bench.state[0]["kv_used"] == bench.state[0]["running"] == bench.state[0]["partial"] == 0
    gamma = server.gamma if server.speculative else 0
    assert not metrics["verify_length"][gamma + 1 :].any()
    assert not metrics["accepted_length"][gamma + 2 :].any()
    assert not metrics["accepted_length"][0]
    rounds = metrics["request_rounds"]
    assert metrics["verify_length"].sum() == metrics["accepted_length"].sum() == rounds
    accepted, verified = (
        int(metrics[name] @ np.arange(len(metrics[name]))) for name in ("accepted_length", "verify_length")
    )
    assert accepted <= verified + rounds == metrics["verified"]


def test_the_warm_up_grows_with_the_rate_and_the_measured_requests_stay() -> None:
    scenario = small()
    runs = {load: scenario.at_load(load).run for load in (0.01, 1.0, 100.0)}
    assert scenario.at_load(2.0).workload.arrivals == Poisson(rate_per_s=24.0)
    assert runs[0.01] == scenario.run
    assert all(run.requests - run.warmup_requests == 180 for run in runs.values())
    assert runs[100.0].warmup_requests == math.ceil(2 * 1200 * scenario.residence_s())
    assert scenario.at_load(100.0).warmed() == scenario.at_load(100.0)


@pytest.mark.parametrize(("name", "speculative"), [("b300-v4flash", True), ("h200-qwen3-8b", False)])
def test_throughput_at_overload_is_that_of_a_long_run(name: str, speculative: bool) -> None:
    scenario = load(name)
    roomy = scenario.server.model_copy(update={"max_running_requests": 512})
    arm = Arm("loaded", roomy if speculative else scenario.server.without_speculation(), stock=True)
    scenario = scenario.with_workload(scenario.workload.with_rate(100.0)).warmed()
    measured = scenario.run.requests - scenario.run.warmup_requests
    longer = Run(requests=8 * measured + 3 * scenario.run.warmup_requests, warmup_requests=scenario.run.warmup_requests)
    long = scenario.model_copy(update={"run": longer})
    short_tok_s, long_tok_s = (simulate(run, arm, seed=3).throughput_tok_s for run in (scenario, long))
    assert short_tok_s == pytest.approx(long_tok_s, rel=0.06)


@pytest.mark.parametrize("arrivals", [Closed(clients=3), Poisson(rate_per_s=50.0)])
def test_a_run_that_drains_ends_with_its_last_request(arrivals: Arrivals) -> None:
    """Like benchmarks: a number of requests, nothing after them, and throughput over the whole run."""
    scenario = a_scenario(arrivals, a_class(1, 10), requests=7)
    scenario = scenario.model_copy(update={"run": Run(requests=7, warmup_requests=0, drain=True)})
    log: list[StepLog] = []
    result = simulate(scenario, Arm("plain", PLAIN), log=log)
    last = log[-1]
    assert result.throughput_tok_s * result.window_s == pytest.approx(70)
    assert last.start_s + last.step_s == pytest.approx(result.simulated_s)
    assert result.unfinished == 0 and last.running == 0
    # Three clients: seven requests in three rounds of a prefill and nine steps each, two full and one of one.
    if isinstance(arrivals, Closed):
        assert result.window_s == pytest.approx(3 * (0.02 + 9 * 0.01))


@pytest.mark.parametrize("rate_per_s", [10.0, 1e6])
def test_load_goes_on_behind_the_measured_requests(rate_per_s: float) -> None:
    """At most twice the measured requests; prompts have one token, so prefilled tokens count requests."""
    scenario = a_scenario(Poisson(rate_per_s=rate_per_s), a_class(1, 200), requests=20, warmup=5)
    totals: list[Record] = []
    log: list[StepLog] = []
    simulate(scenario, Arm("plain", PLAIN), log=log, totals=totals)
    arrivals = next(scenario.workload.chunks(0))["arrival_s"]
    in_time = int(np.searchsorted(arrivals, log[-1].start_s, side="right"))
    assert totals[0]["prefilled"].sum() == min(in_time, 35) > 20


@pytest.mark.parametrize("slots", [1, 40])
def test_the_queue_keeps_its_order_as_it_grows(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that grows after some requests have left it, against one that holds all requests from the start."""
    scenario = small(requests=600, warmup=0).model_copy(
        update={"workload": small().workload.with_rate(1000.0 / slots), "run": Run(requests=600, warmup_requests=0)}
    )
    arm = Arm("static", Server(gamma=7, max_running_requests=slots))
    large = outcome(scenario, arm)
    monkeypatch.setattr(simulation, "FIRST_QUEUE", MAX_REQUESTS + 16)
    assert outcome(scenario, arm) == large


@pytest.mark.parametrize("policy", [Fixed(length=3), Argmax(), NoDraft()])
def test_a_server_that_captures_nothing_pads_nothing(policy: AnyPolicy) -> None:
    server = Server(gamma=7, verify_mode="compact", max_running_requests=8, capture_requests=0)
    log: list[StepLog] = []
    scenario = a_scenario(Closed(clients=5), a_class(1, 30), requests=20, cost=step_cost(0.01, 1e-4))
    simulate(scenario, Arm("bare", server, policy), log=log)
    steps = [step for step in log if step.kind == "decode"]
    assert steps and all(step.tier <= 5 * 8 for step in steps)
    if isinstance(policy, Fixed):
        # Sizes that no multiple of the block has.
        assert any(step.tier % 8 for step in steps)


def test_refusals_that_pass_while_one_request_is_served_are_no_measurement() -> None:
    """Eight requests of a closed loop, five of them refused: those served were sent before or after the window."""
    scenario = a_scenario(Closed(clients=5), a_class(1, 2), requests=8)
    server = Server(speculative=False, max_running_requests=1, max_queued_requests=2)
    with pytest.raises(InputError, match="max_queued_requests: 2 refuses some of the 5 clients of a closed loop"):
        simulate(scenario, Arm("limited", server))
