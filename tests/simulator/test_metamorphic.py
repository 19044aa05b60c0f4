"""Metamorphic tests: effects of changes to a scenario on its result, where the result itself is unknown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspark_simulator import scenario as scenarios
from dspark_simulator.deployment import Memory
from dspark_simulator.result import Result
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.workloads import Poisson, Uniform
from sglang_dspark.policy import Argmax, Greedy, Threshold
from tests.simulator.deployment import Bench, a_class, a_scenario, step_cost

COMPACT = Server(gamma=5, verify_mode="compact", max_running_requests=32, prefill_decode_interval=2)
ARMS = (
    Arm("plain", COMPACT.model_copy(update={"speculative": False})),
    Arm("static", COMPACT.model_copy(update={"verify_mode": "static"}), stock=True),
    Arm("argmax", COMPACT, Argmax(fill=True)),
    Arm("greedy", COMPACT, Greedy()),
    Arm("threshold", COMPACT, Threshold(running=(1, 16), theta=(0.1, 0.5), off_above=24)),
    Arm("oracle", COMPACT, oracle=True),
    Arm("vllm", Server(engine="vllm", gamma=5, verify_mode="compact", max_running_requests=32), Argmax()),
)
BY_NAME = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)


def run(scenario: Scenario, arm: Arm, seed: int = 3) -> tuple[Result, list[StepLog]]:
    log: list[StepLog] = []
    return simulate(scenario, arm, seed=seed, log=log), log


def packaged(**update: Any) -> Scenario:
    """A packaged scenario with all kinds of times, short and under load."""
    scenario = scenarios.load(scenarios.DEFAULT).model_copy(
        update={"run": Run(requests=300, warmup_requests=40), "loads": (1.0,), **update}
    )
    return scenario.with_workload(scenario.workload.with_rate(30.0))


def factor(name: str, by: float) -> float:
    """Factor of a quantity when all times are scaled, by the unit in its name."""
    if name.endswith(("per_s", "tok_s")):
        return 1.0 / by
    return by if name == "seconds" or name.endswith("_s") or "_s_per_" in name else 1.0


def slowed(value: Any, by: float, name: str = "") -> Any:
    """A dumped scenario with all its times multiplied."""
    if isinstance(value, dict):
        return {key: slowed(item, by, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [slowed(item, by, name) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * factor(name, by) if factor(name, by) != 1.0 else value
    return value


@BY_NAME
def test_times_scaled_by_three_scale_the_result(arm: Arm) -> None:
    """Scales the profile, arrivals and SLOs; steps and tokens stay exactly the same."""
    scenario = packaged()
    slow = Scenario.model_validate(slowed(scenario.model_dump(), 3.0))
    (result, log), (slow_result, slow_log) = run(scenario, arm), run(slow, arm)
    assert len(log) == len(slow_log) > 200
    for step, slow_step in zip(log, slow_log, strict=True):
        assert slow_step._replace(start_s=step.start_s, step_s=step.step_s) == step
        assert (slow_step.start_s, slow_step.step_s) == pytest.approx((3.0 * step.start_s, 3.0 * step.step_s), rel=1e-9)
    for ours, theirs in ((result, slow_result), *zip(result.classes, slow_result.classes, strict=True)):
        for name, value in ours._asdict().items():
            other = getattr(theirs, name)
            if isinstance(value, int | float):
                assert other == pytest.approx(factor(name, 3.0) * value, rel=1e-9, nan_ok=True), name
    for name in ("ttft", "tpot", "itl"):
        mean_s, *percentiles = getattr(result, name)
        slow_mean_s, *slow_percentiles = getattr(slow_result, name)
        assert slow_mean_s == pytest.approx(3.0 * mean_s, rel=1e-9, nan_ok=True)
        # Those of histograms, each within 1 % of the exact one.
        assert slow_percentiles == pytest.approx([3.0 * value for value in percentiles], rel=0.02)


@BY_NAME
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_class_without_requests_changes_nothing(arm: Arm, place: int) -> None:
    """At any position and with any lengths: requests and acceptances of the other classes do not change."""
    classes = [
        a_class(Uniform(min=1, max=200), Uniform(min=1, max=80), name="short"),
        a_class(Uniform(min=1, max=900), Uniform(min=1, max=20), name="long", share=0.5, cached_prefix=0.5, prefixes=2),
    ]
    nobody = a_class(5000, 3000, name="nobody", share=1e-300, cached_prefix=1.0, prefixes=9, max_new_tokens=9000)
    mixes = (classes, [*classes[:place], nobody, *classes[place:]])
    (result, log), (other, other_log) = (
        run(a_scenario(Poisson(rate_per_s=8.0), *mix, requests=150, warmup=20, kv_tokens=9000), arm) for mix in mixes
    )
    assert other_log == log
    assert other.classes[place].requests == 0
    left = other.classes[:place] + other.classes[place + 1 :]
    assert repr(other._replace(classes=left)) == repr(result)


# More memory


@BY_NAME
def test_memory_that_nobody_needs_changes_nothing(arm: Arm) -> None:
    def served(kv_tokens: int) -> tuple[Result, list[StepLog]]:
        scenario = packaged(memory=Memory(kv_tokens=kv_tokens, kv_tokens_without_draft=kv_tokens))
        result, log = run(scenario, arm)
        return result._replace(kv_use=math.nan), log

    assert repr(served(10_000_000)) == repr(served(20_000_000))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    prompt=st.sampled_from([1, 10, 40]),
    output=st.sampled_from([4, 10, 40]),
    running=st.sampled_from([4, 16]),
    rate_per_s=st.sampled_from([5.0, 20.0, 100.0]),
    kv_tokens=st.integers(90, 300),
    more=st.sampled_from([1, 5, 30]),
    seed=st.integers(0, 1000),
)
def test_more_memory_never_hurts_where_nothing_is_given_back(
    prompt: int, output: int, running: int, rate_per_s: float, kv_tokens: int, more: int, seed: int
) -> None:
    """First come, first served, with all that a request may write reserved before it starts, and company that costs
    nothing: then each request starts no later with more memory, since those before it end no later."""
    server = Server(speculative=False, max_running_requests=running)
    klass = a_class(Uniform(min=1, max=prompt), Uniform(min=1, max=output), ignore_eos=True)

    def served(kv_tokens: int) -> Result:
        scenario = a_scenario(
            Poisson(rate_per_s=rate_per_s),
            klass,
            requests=30,
            kv_tokens=kv_tokens,
            cost=step_cost(0.01, prefill_s=1e-7),
        )
        drained = scenario.model_copy(update={"run": Run(requests=30, warmup_requests=0, drain=True)})
        return simulate(drained, Arm("plain", server), seed=seed)

    less, more_memory = served(kv_tokens), served(kv_tokens + more)
    assert less.retracted == more_memory.retracted == 0
    # Prefills are all but free.
    assert more_memory.simulated_s <= less.simulated_s + 1e-4
    assert more_memory.ttft.mean_s <= less.ttft.mean_s + 1e-4


def ends_ms(bench: Bench, *requests: tuple[int, int, int]) -> list[int]:
    """When each request ends, where a prefill takes 20 ms and a decoding step 10.

    Args:
        requests: (decoding steps that come before it, prompt, output)
    """
    ends: dict[int, int] = {}
    decoded = 0
    while len(ends) < len(requests):
        for after, prompt, output in requests[bench.sent :]:
            if after <= decoded:
                bench.send(prompt, output)
        decoded += bench.step().kind == "decode"
        state = bench.state[0]
        inside = {*state["id"][: state["running"]].tolist(), *bench.waiting()["id"].tolist()}
        for request in set(range(bench.sent)) - inside:
            ends.setdefault(request, round(1000 * bench.now_s))
    return [ends[request] for request in range(len(requests))]


@pytest.mark.parametrize(("kv_tokens", "ends"), [(25, [70, 90, 90]), (60, [110, 50, 80])])
def test_more_memory_can_cost_a_prefill(kv_tokens: int, ends: list[int]) -> None:
    """Two short requests that arrive while a long one runs.

    Where they find no room beside it they share a prefill once it has left, and all is done after 90 ms. Where they do,
    each interrupts it with a prefill of its own: 110 ms.
    """
    bench = Bench(Server(speculative=False), kv_tokens=kv_tokens)
    assert ends_ms(bench, (0, 10, 6), (1, 10, 1), (2, 10, 1)) == ends


@pytest.mark.parametrize(("kv_tokens", "ends"), [(21, [130, 260, 390]), (22, [150, 330, 280])])
def test_more_memory_can_cost_a_retraction(kv_tokens: int, ends: list[int]) -> None:
    """Three equal requests, admitted by an expectation of few tokens.

    With 21 tokens they run one by one. With 22 the second finds room beside the first, which waits for its prefill; the
    pool fills up, and the second is sent back behind the third, computes its prompt anew and ends 70 ms later.
    """
    bench = Bench(Server(speculative=False, schedule_conservativeness=0.05), kv_tokens=kv_tokens)
    assert ends_ms(bench, (0, 4, 12), (0, 4, 12), (0, 4, 12)) == ends
    assert bench.metrics[0]["retracted"] == (kv_tokens == 22)
