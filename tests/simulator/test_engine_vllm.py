"""vLLM's batch formation, rule by rule, on steps predicted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_simulator.costs import sps_additive
from dspark_simulator.server import Server
from sglang_dspark.policy import Argmax, Engine, Fixed, SpsAdditiveTable, compile_rule, vllm_tiers
from sglang_dspark.policy.rule import compute_budget_beside_prompts
from tests.simulator.deployment import Bench, drafter, step_cost


def vllm(**flags: object) -> Server:
    return Server.model_validate({"engine": "vllm", **flags})


def plain(**flags: object) -> Server:
    return vllm(speculative=False, **flags)


def test_decode_and_prefill_share_a_step() -> None:
    bench = Bench(
        vllm(gamma=3, max_prefill_tokens=32), acceptance=drafter(1.0), cost=step_cost(0.01, 1e-4, draft_s=0.001)
    )
    for _ in range(2):
        bench.send(1, 100)
    assert bench.step()[:6] == ("prefill", 2, 0, 2, 2, 0)
    bench.send(40, 100)
    first, second, third = bench.steps(3)
    # Two blocks of 4 leave 24 of the 32 tokens for the prompt.
    assert first[:2] == ("mixed", 2) and (first.prefill_tokens, first.tier) == (24, 32)
    assert second[:2] == ("mixed", 3) and (second.prefill_tokens, second.tier) == (16, 24)
    assert first.step_s == pytest.approx(0.01 + 32e-4 + 0.001)
    assert third[:2] == ("decode", 3) and third.tier == 16
    assert bench.produced() == {0: 13, 1: 13, 2: 5}


def test_several_prompts_share_a_step() -> None:
    bench = Bench(plain(max_prefill_tokens=16))
    for prompt in (6, 6, 6, 6):
        bench.send(prompt, 100)
    steps = bench.steps(2)
    # The third prompt is cut to 4 tokens; its other 2 and the fourth follow beside two decoding requests.
    assert [step.prefill_tokens for step in steps] == [16, 8]
    assert [step.running for step in steps] == [2, 4]
    assert [step.kind for step in steps] == ["prefill", "mixed"]
    assert [step.tier for step in steps] == [16, 16]


def test_only_verified_tokens_fill_a_mixed_step() -> None:
    bench = Bench(vllm(gamma=7, verify_mode="compact", max_prefill_tokens=100), policy=Fixed(length=2))
    bench.send(1, 100)
    bench.step()
    bench.send(10, 100)
    step = bench.step()
    assert step.kind == "mixed"
    # Two drafts, their anchor and the prompt: 13, captured as 16.
    assert step.tier == 16


@pytest.mark.parametrize(("running", "tier"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 24), (130, 136)])
def test_steps_are_captured_by_tokens(running: int, tier: int) -> None:
    bench = Bench(plain(max_running_requests=256), cost=step_cost(0.01, 1e-4))
    for _ in range(running):
        bench.send(1, 100)
    prefill, decode = bench.steps(2)
    assert (prefill.kind, decode.kind) == ("prefill", "decode")
    assert prefill.tier == decode.tier == tier
    assert prefill.step_s == decode.step_s == pytest.approx(0.01 + 1e-4 * tier)


@pytest.mark.parametrize(("running", "tier", "eager"), [(1, 8, False), (2, 16, False), (3, 24, True)])
def test_steps_past_the_captured_tokens_run_eagerly(running: int, tier: int, eager: bool) -> None:
    bench = Bench(vllm(gamma=7, capture_tokens=16), cost=step_cost(0.01, draft_s=0.001, eager_s=0.1))
    for _ in range(running):
        bench.send(1, 100)
    prefill, decode = bench.steps(2)
    assert prefill.step_s == pytest.approx(0.01)
    assert decode.tier == tier
    assert decode.step_s == pytest.approx((0.1 if eager else 0.01) + 0.001)
    assert bench.metrics[0]["eager"] == eager
    bench.send(20, 100)
    assert bench.step().step_s == pytest.approx(0.101)


def test_max_running_requests_is_respected() -> None:
    bench = Bench(plain(max_running_requests=2))
    for output in (3, 5, 4, 1):
        bench.send(1, output)
    assert [step[:3] for step in bench.drain()] == [
        ("prefill", 2, 2),
        ("decode", 2, 2),
        ("decode", 1, 2),
        ("mixed", 2, 1),
        ("decode", 1, 1),
        ("mixed", 1, 0),
        ("decode", 0, 0),
    ]


def test_the_youngest_is_preempted_to_the_front_of_the_queue() -> None:
    bench = Bench(plain(max_running_requests=2), kv_tokens=12)
    bench.send(3, 6)
    bench.send(3, 6)
    bench.send(3, 2)
    log = bench.steps(4)
    assert [step[:4] for step in log] == [("prefill", 2, 1, 6)] + [("decode", 2, 1, 6 + 2 * k) for k in (1, 2, 3)]
    # 14 tokens would be needed.
    assert bench.step()[:4] == ("decode", 1, 2, 7)
    assert bench.waiting()["id"].tolist() == [1, 2]
    # The first ends; the second comes back with its prompt and 4 tokens, then the third.
    assert [step[:5] for step in bench.drain()] == [
        ("decode", 0, 2, 0, 0),
        ("prefill", 2, 0, 10, 10),
        ("decode", 0, 0, 0, 0),
    ]
    assert bench.metrics[0]["tokens"] == 14
    assert bench.metrics[0]["retracted"] == 1


def test_a_step_that_preempts_admits_nothing() -> None:
    """``Scheduler.schedule`` admits from the waiting queue only in steps without preemption."""
    bench = Bench(vllm(gamma=7), kv_tokens=100)
    bench.send(70, 1000)
    bench.send(5, 1000)
    step = bench.until_retracted()
    assert (step.kind, step.running, step.queued) == ("decode", 1, 1)


def test_a_prompt_waits_while_blocks_take_the_whole_step() -> None:
    bench = Bench(vllm(gamma=7, max_prefill_tokens=8), acceptance=drafter(0.0))
    bench.send(2, 4)
    bench.send(12, 4)
    steps = bench.drain()
    # 2 + 6 tokens of prompt, then nothing beside the first's blocks, then the other 6.
    assert [step.prefill_tokens for step in steps[:5]] == [8, 0, 0, 0, 6]
    assert steps[-1].kv_tokens == 0
    assert bench.metrics[0]["tokens"] == 8


def test_a_request_that_never_fits_is_aborted() -> None:
    bench = Bench(plain(), kv_tokens=20)
    bench.send(20, 2)
    bench.send(10, 100)
    bench.send(10, 5)
    bench.drain()
    metrics = bench.metrics[0]
    assert (metrics["aborted"].sum(), metrics["finished"].sum()) == (2, 1)


@given(
    requests=st.integers(1, 12),
    prompt=st.sampled_from([0, 5, 40, 90]),
    limit=st.sampled_from([16, 64, 128]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_budget_is_vllms(requests: int, prompt: int, limit: int, seed: int) -> None:
    """Against ``argmax (N + survivals) / (draft[N] + verify[T + B])``, T with the prompts, padded where captured."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((requests, 4)).astype(np.float32)
    survival = np.cumprod(confidence, axis=1).astype(np.float32)
    at, rise = np.array([1, limit, limit + 1, 400]), np.sort(rng.uniform(0.001, 0.02, 4))
    table = SpsAdditiveTable(
        bias_seconds=0.001,
        bs_probes=(1, 64),
        alpha_seconds=(0.001, 0.004),
        m_probes=tuple(at.tolist()),
        theta_seconds=tuple(rise.tolist()),
    )
    tiers = vllm_tiers(limit)
    rule = compile_rule(Argmax(), Engine(4, tiers, limit, table))
    times = table.step_times()
    scores = np.sort(survival.ravel())[::-1].astype(np.float64)
    rates = []
    for budget in range(len(scores) + 1):
        tokens = requests + prompt + budget
        padded = tiers[np.searchsorted(tiers, tokens)] if tokens <= limit else tokens
        rates.append((requests + scores[:budget].sum()) / (times.requests_s[requests] + times.tokens_s[padded]))
    zeros = np.zeros(requests, np.int64)
    _, cap, draft = compute_budget_beside_prompts(rule, survival, zeros, zeros, prompt)
    assert draft and rates[cap] == pytest.approx(max(rates), rel=1e-9)


def test_a_budget_that_counts_the_prompt_keeps_the_step_captured() -> None:
    cost = step_cost(0.01, 1e-5, draft_s=0.001, eager_s=0.5)
    server = vllm(gamma=7, verify_mode="compact", capture_tokens=32, max_prefill_tokens=64)
    bench = Bench(server, cost=cost, acceptance=drafter(0.9))
    belief = sps_additive(cost.tabulate(), 32, 256)
    bench.rule = compile_rule(Argmax(), Engine(7, server.tiers(), server.captured_requests(), belief))
    for _ in range(2):
        bench.send(1, 100)
    bench.step()
    bench.send(20, 100)
    step = bench.step()
    # Whole blocks would be 16 tokens and with the prompt 36, past the 32 that are captured.
    assert step.kind == "mixed" and step.tier <= 32 and step.cap <= 10
    assert step.step_s < 0.1
