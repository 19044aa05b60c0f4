"""SGLang's batch formation, rule by rule, on steps predicted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dspark_simulator import draws
from dspark_simulator.acceptance_model import propose
from dspark_simulator.costs import sps_additive
from dspark_simulator.server import Server
from sglang_dspark.policy import Fixed, NoDraft, Policy, Static, Threshold
from tests.simulator.deployment import Bench, a_class, drafter, step_cost, uneven_drafter

PLAIN = Server(speculative=False)


def plain(**flags: object) -> Server:
    return Server.model_validate({"speculative": False, **flags})


def decoding(server: Server, requests: int, **given: Any) -> Bench:
    """A bench with ``requests`` that have just been prefilled and have long outputs."""
    bench = Bench(server, **given)
    for _ in range(requests):
        bench.send(1, 10_000)
    assert bench.step().running == requests
    return bench


def ratio(bench: Bench) -> float:
    return float(bench.state[0]["ratio"])


# Prefill


def test_prefill_goes_before_decode() -> None:
    bench = Bench(PLAIN)
    bench.send(5, 10)
    assert bench.step()[:5] == ("prefill", 1, 0, 5, 5)
    assert bench.step()[:5] == ("decode", 1, 0, 6, 0)
    bench.send(7, 10)
    assert bench.step()[:5] == ("prefill", 2, 0, 13, 7)
    assert bench.produced() == {0: 2, 1: 1}
    assert bench.step()[:5] == ("decode", 2, 0, 15, 0)
    assert bench.produced() == {0: 3, 1: 2}


def test_steps_take_their_parts() -> None:
    cost = step_cost(
        0.01,
        1e-4,
        prefill_s=0.02,
        prefill_per_token_s=1e-3,
        draft_s=0.003,
        overhead_s=0.5,
        inject_s_per_token=1e-5,
        context_s_per_token=1e-6,
        prefill_context_s=1e-7,
    )
    bench = Bench(Server(gamma=3), cost=cost)
    bench.send(100, 50)
    assert bench.step().step_s == pytest.approx(0.5 + 0.12 + 100 * 50 * 1e-7 + 100 * 1e-5)
    assert bench.step().step_s == pytest.approx(0.5 + 0.003 + 0.0104 + 100 * 1e-6 + 4 * 1e-5)
    bench = Bench(PLAIN, cost=cost)
    bench.send(100, 50)
    assert bench.step().step_s == pytest.approx(0.5 + 0.12 + 100 * 50 * 1e-7)
    assert bench.step().step_s == pytest.approx(0.5 + 0.0101 + 100 * 1e-6)


@pytest.mark.parametrize("prompt", [1, 4, 5, 8, 9, 13])
def test_long_prompts_are_prefilled_in_chunks(prompt: int) -> None:
    bench = Bench(plain(chunked_prefill_size=4, max_running_requests=2))
    bench.send(prompt, 2)
    steps = bench.drain()
    chunks = [step.prefill_tokens for step in steps[:-1]]
    assert len(chunks) == -(-prompt // 4)
    assert all(step.kind == "prefill" for step in steps[:-1])
    assert chunks[:-1] == [4] * (len(chunks) - 1)
    assert sum(chunks) == prompt
    assert [step.running for step in steps] == [0] * (len(chunks) - 1) + [1, 0]
    assert steps[-1].kind == "decode"


def test_what_a_last_chunk_leaves_goes_to_the_next_prompt() -> None:
    bench = Bench(plain(chunked_prefill_size=4, max_running_requests=8))
    bench.send(10, 5)
    bench.send(3, 5)
    steps = bench.steps(4)
    assert [step.prefill_tokens for step in steps] == [4, 4, 4, 1]
    assert [step.running for step in steps] == [0, 0, 1, 2]
    assert [step.kv_tokens for step in steps] == [4, 8, 12, 13]


def test_max_prefill_tokens_ends_a_prefill_batch() -> None:
    """``PrefillAdder`` stops once the tokens are used up; the prompt that exceeds them still runs whole."""
    bench = Bench(plain(max_prefill_tokens=10))
    for _ in range(3):
        bench.send(6, 5)
    assert [step.prefill_tokens for step in bench.steps(3)] == [12, 6, 0]


def test_mixed_chunk_gives_running_requests_one_token() -> None:
    server = Server(gamma=3, enable_mixed_chunk=True, chunked_prefill_size=6, max_running_requests=4)
    bench = Bench(server, acceptance=drafter(1.0))
    bench.send(2, 100)
    bench.steps(2)
    assert bench.produced() == {0: 5}
    bench.send(10, 100)
    first, second = bench.steps(2)
    # The running request's token comes out of the chunk.
    assert first[:2] == ("mixed", 1) and (first.prefill_tokens, first.tier) == (5, 6)
    assert second[:2] == ("mixed", 2) and (second.prefill_tokens, second.tier) == (5, 6)
    assert bench.produced() == {0: 7, 1: 1}
    assert bench.step().kind == "decode"
    assert bench.produced() == {0: 11, 1: 5}


def test_a_mixed_step_reads_the_context_of_the_running_requests() -> None:
    cost = step_cost(prefill_s=0.02, prefill_context_s=1e-3)
    bench = Bench(plain(enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=4), cost=cost)
    bench.send(2, 100)
    bench.steps(3)
    bench.send(10, 100)
    step = bench.step()
    # A prompt and two tokens of the running request; each of the new prompt's tokens sees half of it on average.
    assert (step.kind, step.step_s) == ("mixed", pytest.approx(0.02 + 1e-3 * (10 * 5 + 4)))


def test_without_mixed_chunk_running_requests_wait() -> None:
    bench = Bench(Server(gamma=3, chunked_prefill_size=6, max_running_requests=4), acceptance=drafter(1.0))
    bench.send(2, 100)
    bench.steps(2)
    bench.send(10, 100)
    assert [step.kind for step in bench.steps(2)] == ["prefill", "prefill"]
    assert bench.produced() == {0: 5, 1: 1}


@pytest.mark.parametrize(("cached", "prefilled"), [(0, 10), (6, 4), (9, 1), (10, 1)])
def test_prefix_cache_hits_shorten_prefill(cached: int, prefilled: int) -> None:
    cost = step_cost(prefill_s=0.0, prefill_per_token_s=1.0, prefill_context_s=1e-3)
    bench = Bench(PLAIN, cost=cost)
    bench.send(10, 5, cached=cached)
    step = bench.step()
    assert step.prefill_tokens == prefilled
    assert step.kv_tokens == 10
    pairs = prefilled * ((10 - prefilled) + prefilled / 2)
    assert step.step_s == pytest.approx(prefilled + 1e-3 * pairs)


def test_max_running_requests_is_respected() -> None:
    bench = Bench(plain(max_running_requests=2))
    for output in (3, 5, 4, 2, 1):
        bench.send(1, output)
    log = [step[:3] for step in bench.drain()]
    assert log == [
        ("prefill", 2, 3),
        ("decode", 2, 3),
        ("decode", 1, 3),
        ("prefill", 2, 2),
        ("decode", 2, 2),
        ("decode", 1, 2),
        ("prefill", 2, 1),
        ("decode", 0, 1),
        ("prefill", 0, 0),
    ]


# Memory


def test_retraction_takes_the_request_with_the_least_output() -> None:
    bench = Bench(plain(schedule_conservativeness=0.1), kv_tokens=24)
    bench.send(4, 12)
    log = bench.steps(3)
    bench.send(3, 12)
    log += bench.drain()
    assert [step[:4] for step in log] == [
        ("prefill", 1, 0, 4),
        ("decode", 1, 0, 5),
        ("decode", 1, 0, 6),
        # 3 + 12 + 1 tokens fit what is left beside the 9 that the first is expected to write at a ratio of 0.07.
        ("prefill", 2, 0, 9),
        *[("decode", 2, 0, 9 + 2 * k) for k in range(1, 8)],
        # 25 tokens would be needed: the second, with 8 tokens of output against 10, goes.
        ("decode", 1, 1, 14),
        ("decode", 0, 1, 0),
        # Its prompt and its output so far, and it has 3 tokens to go.
        ("prefill", 1, 0, 11),
        ("decode", 1, 0, 12),
        ("decode", 1, 0, 13),
        ("decode", 0, 0, 0),
    ]
    assert log[13].prefill_tokens == 11
    metrics = bench.metrics[0]
    assert (metrics["retracted"], metrics["aborted"].sum(), metrics["finished"].sum()) == (1, 0, 2)
    assert metrics["tokens"] == 24


def test_retraction_takes_the_longest_prompt_among_equals() -> None:
    bench = Bench(plain(schedule_conservativeness=0.1), kv_tokens=24)
    bench.send(4, 12)
    bench.step()
    bench.send(3, 12)
    bench.steps(9)
    assert bench.produced() == {0: 9, 1: 9}
    bench.step()
    assert bench.produced() == {1: 10}
    assert bench.waiting()["id"].tolist() == [0]


def test_retracted_requests_queue_behind_the_others() -> None:
    bench = Bench(plain(schedule_conservativeness=0.1), kv_tokens=24)
    bench.send(4, 12)
    bench.steps(3)
    bench.send(3, 12)
    bench.step()
    bench.send(2, 20)
    bench.until_retracted()
    assert bench.waiting()["id"].tolist() == [2, 1]


@pytest.mark.parametrize(
    "mixed",
    [
        False,
        True,
    ],
)
def test_new_token_ratio_after_retraction(mixed: bool) -> None:
    """Written so far and 20 more each, over what may be written (``estimate_new_token_ratio_after_retract``)."""
    bench = Bench(plain(schedule_conservativeness=0.1, enable_mixed_chunk=mixed), kv_tokens=320)
    bench.send(50, 200)
    bench.steps(3)
    bench.send(49, 200)
    bench.until_retracted()
    (produced,) = bench.produced().values()
    assert ratio(bench) == pytest.approx((produced - 1 + 20) / 201)


@pytest.mark.parametrize(("speculative", "gamma"), [(False, 1), (True, 1), (True, 5)])
def test_retraction_happens_only_when_the_pool_is_full(speculative: bool, gamma: int) -> None:
    reserve = 2 * (gamma + 1) if speculative else 1
    rng = np.random.default_rng(7)
    retracted = 0
    for _ in range(30):
        server = Server(speculative=speculative, gamma=gamma, schedule_conservativeness=0.05, chunked_prefill_size=64)
        bench = Bench(server, kv_tokens=200)
        for _ in range(60):
            for _ in range(rng.poisson(0.3)):
                bench.send(int(rng.integers(1, 40)), int(rng.integers(1, 60)))
            s = bench.state[0]
            running = int(s["running"])
            produced, prompt, context, held = (
                s[name][:running].copy() for name in ("produced", "prompt", "context", "allocated")
            )
            before = int(bench.metrics[0]["retracted"])
            free = 200 - int(s["kv_used"])
            step = bench.step()
            gone = int(bench.metrics[0]["retracted"]) - before
            retracted += gone
            if step.kind != "decode":
                assert gone == 0
                continue
            needs = np.maximum(context + reserve - held, 0)
            # Kept best: most output, then shortest prompt.
            order = sorted(range(running), key=lambda r: (produced[r], -prompt[r]), reverse=True)
            expected = []
            while needs[order].sum() > free and len(order) > 1:
                worst = order.pop()
                expected.append((produced[worst], prompt[worst]))
                free += held[worst]
            last = bench.waiting(gone)
            assert list(zip(last["produced"], last["prompt"], strict=True)) == expected
    assert retracted > 20


def test_a_request_that_does_not_fit_alone_is_aborted() -> None:
    bench = Bench(Server(gamma=7), kv_tokens=60, acceptance=drafter(1.0))
    # 36 tokens of prompt, 16 of output and 16 reserved are too many.
    bench.send(36, 20)
    bench.send(10, 9)
    bench.drain()
    metrics = bench.metrics[0]
    assert (metrics["aborted"].sum(), metrics["finished"].sum(), metrics["tokens"]) == (1, 1, 17 + 9)


def admitted(bench: Bench, prompt: int, output: int) -> bool:
    bench.send(prompt, output)
    return bench.step().kind == "prefill"


@pytest.mark.parametrize(
    ("conservativeness", "least"),
    # 10 held, 59 to come at the ratio, 20 + 30 + 1 asked for: above 61 + 59 * ratio.
    [(1.0, 103), (0.5, 82), (2.0, 121)],
)
def test_admission_by_new_token_ratio(conservativeness: float, least: int) -> None:
    for kv_tokens in (least - 1, least):
        bench = Bench(plain(schedule_conservativeness=conservativeness), kv_tokens=kv_tokens)
        bench.send(10, 60)
        bench.step()
        assert admitted(bench, 20, 30) == (kv_tokens == least)


@pytest.mark.parametrize(
    ("steps", "first_output", "output", "least"),
    [
        # Ratio 0.7 - 100 * 0.602 / 600; 110 held, 299 to come, 171 asked for.
        (100, 400, 150, 461),
        # The floor, 0.14 * 0.7; 710 held, 299 to come, 421 asked for.
        (700, 1000, 400, 1161),
    ],
)
def test_new_token_ratio_decays_with_decoding(steps: int, first_output: int, output: int, least: int) -> None:
    for kv_tokens in (least - 1, least):
        bench = Bench(PLAIN, kv_tokens=kv_tokens)
        bench.send(10, first_output)
        bench.steps(1 + steps)
        assert ratio(bench) == pytest.approx(max(0.7 - steps * 0.602 / 600, 0.098))
        assert admitted(bench, 20, output) == (kv_tokens == least)


def test_admission_counts_at_most_4096_new_tokens() -> None:
    for kv_tokens, fits in ((6994, False), (6995, True)):
        bench = Bench(PLAIN, kv_tokens=kv_tokens, classes=(a_class(max_new_tokens=10_000),))
        bench.send(10, 50)
        bench.step()
        # 10 held, 0.7 * 4096 to come, 20 + 4096 + 1 asked for: above 6994.2.
        assert admitted(bench, 20, 5) == fits


def test_a_refused_queue_waits_for_a_request_to_leave() -> None:
    bench = Bench(PLAIN, kv_tokens=102)
    bench.send(10, 60)
    bench.step()
    assert not admitted(bench, 20, 30)
    steps = bench.steps(59)
    assert [step.kind for step in steps] == ["decode"] * 58 + ["prefill"]


def test_max_new_tokens_is_capped_to_what_the_pool_holds() -> None:
    """``Scheduler`` lowers ``max_new_tokens`` to the room beside the prompt, so a large value is not refused."""
    bench = Bench(PLAIN, kv_tokens=200, classes=(a_class(max_new_tokens=10_000),))
    bench.send(10, 5)
    bench.drain()
    assert bench.metrics[0]["aborted"].sum() == 0
    assert bench.metrics[0]["tokens"] == 5


def test_new_token_ratio_stands_still_in_mixed_steps() -> None:
    """Only ``update_running_batch`` decays it, and steps with a prefill do not call it."""
    bench = Bench(plain(enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=48))
    bench.send(1, 50)
    bench.steps(3)
    after_two = ratio(bench)
    assert after_two == pytest.approx(0.7 - 2 * 0.602 / 600)
    bench.send(100, 50)
    assert [step.kind for step in bench.steps(2)] == ["mixed", "mixed"]
    assert ratio(bench) == after_two


def test_new_token_ratio_starts_anew_when_idle() -> None:
    """``Scheduler.on_idle`` resets the tracker."""
    bench = Bench(PLAIN)
    bench.send(1, 50)
    bench.drain()
    assert ratio(bench) == 0.7


def test_speculation_reserves_two_blocks_a_request() -> None:
    bench = decoding(Server(gamma=7), 3)
    assert bench.step().kv_tokens == 3 * (1 + 2 * 8)


# Delays, limits and intervals


@pytest.mark.parametrize(
    ("fields", "slots"),
    [
        ({"max_running_requests": 48}, 4),
        ({"max_running_requests": 512}, 4),
        ({"max_running_requests": 13}, 3),
        ({"max_running_requests": 8}, 2),
        ({"max_running_requests": 7}, 1),
        ({"speculative": False}, 1),
        ({"speculative": False, "min_free_slots_delay": 6}, 6),
        ({"min_free_slots_delay": 1}, 1),
        ({"max_running_requests": 4, "min_free_slots_delay": 9}, 4),
        ({"engine": "vllm"}, 1),
    ],
)
def test_free_slots_that_a_prefill_waits_for(fields: dict[str, object], slots: int) -> None:
    assert Server.model_validate(fields).min_free_slots() == slots


def test_a_prefill_waits_for_free_slots() -> None:
    bench = Bench(plain(max_running_requests=4, min_free_slots_delay=2))
    for output in (2, 3, 9, 9, 9, 9):
        bench.send(1, output)
    assert [step[:3] for step in bench.steps(4)] == [
        ("prefill", 4, 2),
        ("decode", 3, 2),
        ("decode", 2, 2),
        ("prefill", 4, 0),
    ]


def test_speculation_waits_for_free_slots_by_default() -> None:
    """8 running requests wait for 2 slots."""
    bench = Bench(Server(gamma=3, max_running_requests=8), acceptance=drafter(0.0))
    for output in (2, 3, *[9] * 8):
        bench.send(1, output)
    assert [step[:3] for step in bench.steps(4)] == [
        ("prefill", 8, 2),
        ("decode", 7, 2),
        ("decode", 6, 2),
        ("prefill", 8, 0),
    ]


def test_a_cut_prompt_waits_for_no_slots() -> None:
    bench = Bench(plain(max_running_requests=3, min_free_slots_delay=2, chunked_prefill_size=4))
    bench.send(1, 9)
    bench.step()
    bench.send(10, 9)
    steps = bench.steps(4)
    # It is admitted with 2 free slots, and goes on with 1 where it would not be admitted.
    assert [step.kind for step in steps] == ["prefill"] * 3 + ["decode"]
    bench.send(1, 9)
    assert bench.step().kind == "decode"


def test_an_empty_server_waits_for_no_slots() -> None:
    bench = Bench(plain(max_running_requests=2, min_free_slots_delay=2))
    bench.send(1, 2)
    assert bench.step().kind == "prefill"
    bench.send(1, 2)
    assert [step.kind for step in bench.steps(2)] == ["decode", "prefill"]


def test_decode_steps_pass_between_prefills() -> None:
    bench = Bench(plain(prefill_decode_interval=2))
    bench.send(1, 50)
    bench.step()
    for _ in range(2):
        bench.send(1, 50)
        assert [step.kind for step in bench.steps(3)] == ["decode", "decode", "prefill"]
    bench.steps(5)
    # The interval has passed when the next request comes.
    bench.send(1, 50)
    assert bench.step().kind == "prefill"


def test_decode_steps_pass_between_chunks() -> None:
    bench = Bench(plain(prefill_decode_interval=1, chunked_prefill_size=4))
    bench.send(12, 50)
    # With nobody running the steps have nothing to run.
    assert [step.kind for step in bench.steps(3)] == ["prefill"] * 3
    bench.send(12, 50)
    assert [step.kind for step in bench.steps(6)] == ["decode", "prefill"] * 3
    assert bench.produced() == {0: 4, 1: 1}


@pytest.mark.parametrize("requests", [1, 2])
def test_the_interval_counts_from_a_number_of_running_requests(requests: int) -> None:
    bench = Bench(plain(prefill_decode_interval=2, prefill_decode_interval_min_bs=2))
    for _ in range(requests):
        bench.send(1, 50)
    bench.step()
    bench.send(1, 50)
    assert bench.step().kind == ("prefill" if requests == 1 else "decode")


def test_a_mixed_step_is_a_prefill_to_the_interval() -> None:
    bench = Bench(
        plain(prefill_decode_interval=2, enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=48)
    )
    bench.send(1, 50)
    bench.step()
    for _ in range(2):
        bench.send(1, 50)
        assert [step.kind for step in bench.steps(3)] == ["decode", "decode", "mixed"]


def test_requests_of_a_prefill_are_limited() -> None:
    bench = Bench(plain(prefill_max_requests=2, chunked_prefill_size=4))
    for prompt in (6, 1, 1, 1):
        bench.send(prompt, 50)
    # The prompt that is cut counts.
    assert [step.prefill_tokens for step in bench.steps(4)] == [4, 3, 2, 0]


def test_a_full_queue_refuses_a_retracted_request() -> None:
    bench = Bench(plain(schedule_conservativeness=0.1, max_queued_requests=1), kv_tokens=24)
    bench.send(4, 12)
    bench.steps(3)
    bench.send(3, 12)
    bench.step()
    bench.send(2, 20)
    step = bench.until_retracted()
    assert (step.running, step.queued, step.ended) == (1, 1, 1)
    assert bench.waiting()["id"].tolist() == [2]
    assert bench.metrics[0]["aborted"].sum() == 1


def test_requests_that_ignore_the_end_of_text_are_counted_whole() -> None:
    """10 held, 59 to come, 20 + 30 + 1 asked for."""
    for kv_tokens in (120, 121):
        bench = Bench(PLAIN, kv_tokens=kv_tokens, classes=(a_class(ignore_eos=True),))
        bench.send(10, 60)
        bench.step()
        assert admitted(bench, 20, 30) == (kv_tokens == 121)


# What can never fit


@pytest.mark.parametrize(("prompt", "refused"), [(33, False), (34, True), (1000, True)])
def test_a_prompt_that_can_never_fit_is_answered_with_an_error(prompt: int, refused: bool) -> None:
    bench = Bench(PLAIN, kv_tokens=40)
    bench.send(prompt, 5)
    steps = bench.drain()
    assert steps[0].prefill_tokens == (1 if refused else prompt)
    assert (len(steps), sum(step.ended for step in steps)) == (1 if refused else 5, 1)
    metrics = bench.metrics[0]
    assert (metrics["aborted"].sum(), metrics["finished"].sum()) == (refused, not refused)
    assert metrics["tokens"] == (0 if refused else 5)


def test_a_prompt_that_can_never_fit_holds_nobody_up() -> None:
    bench = Bench(PLAIN, kv_tokens=100)
    bench.send(10, 50)
    bench.step()
    bench.send(2000, 50)
    bench.send(5, 10)
    step = bench.step()
    assert (step.kind, step.running, step.queued, step.prefill_tokens, step.ended) == ("prefill", 2, 0, 6, 1)
    assert bench.produced() == {0: 1, 2: 1}


def test_an_output_that_can_never_fit_is_cut() -> None:
    bench = Bench(PLAIN, kv_tokens=40)
    bench.send(20, 30)
    bench.drain()
    assert bench.metrics[0]["tokens"] == 40 - 20 - 2
    assert bench.metrics[0]["finished"].sum() == 1


def test_an_output_ends_at_max_new_tokens() -> None:
    bench = Bench(PLAIN, classes=(a_class(max_new_tokens=7),))
    bench.send(20, 30)
    bench.drain()
    assert bench.metrics[0]["tokens"] == 7


def test_new_token_ratio_after_the_last_request_was_aborted() -> None:
    """``retract_decode`` estimates it over nobody."""
    # The third round needs 36 + 16 tokens and a reserve of 16.
    bench = Bench(Server(gamma=7), kv_tokens=60, acceptance=drafter(1.0))
    bench.send(36, 20)
    bench.send(36, 20)
    bench.steps(3)
    step = bench.step()
    assert (step.kind, step.running, step.queued, step.ended) == ("idle", 0, 1, 1)
    assert ratio(bench) == 0.0


# The running batch and its flag


@pytest.mark.parametrize("outputs", [(3, 20, 20), (20, 3, 20)])
def test_retraction_takes_the_last_among_equals(outputs: tuple[int, ...]) -> None:
    """The last request in the order of the batch, in the first or second slot."""
    # The short one leaves, the other two fill the 40 tokens with 16 each.
    bench = Bench(plain(schedule_conservativeness=0.1), kv_tokens=40)
    for output in outputs:
        bench.send(5, output)
    step = bench.until_retracted()
    assert (step.running, step.queued) == (1, 1)
    assert bench.waiting()[["id", "produced"]].tolist() == [(2, 16)]


def test_prefilled_requests_stand_in_front_of_those_that_ran_beside_them() -> None:
    """``mix_with_running`` appends the running requests to the prefill batch."""
    bench = Bench(
        plain(schedule_conservativeness=0.1, enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=48),
        kv_tokens=24,
    )
    bench.send(4, 12)
    bench.steps(2)
    bench.send(4, 12)
    # As though it had been retracted with 2 tokens.
    bench.queue[int(bench.state[0]["queue_head"])]["produced"] = 2
    assert bench.step().kind == "mixed"
    assert bench.produced() == {0: 3, 1: 3}
    bench.until_retracted()
    assert bench.waiting()["id"].tolist() == [0]


def test_a_refused_queue_is_tried_again_once_the_first_batch_runs() -> None:
    """The prefill batch of an empty server becomes the running batch, and its ``batch_is_full`` is not set."""
    bench = Bench(PLAIN, kv_tokens=100)
    bench.send(10, 60)
    # 31 tokens asked for: not below the 29 beside a reserve of 60, but below the 48.7 beside 0.7 * 59.
    bench.send(10, 20)
    assert [step[:3] for step in bench.steps(3)] == [("prefill", 1, 1), ("prefill", 2, 0), ("decode", 2, 0)]


def test_a_refused_queue_waits_where_others_run() -> None:
    bench = Bench(PLAIN, kv_tokens=102)
    bench.send(1, 3)
    bench.step()
    bench.send(10, 60)
    bench.send(10, 20)
    steps = bench.steps(4)
    assert [step[:3] for step in steps] == [("prefill", 2, 1), ("decode", 2, 1), ("decode", 1, 1), ("prefill", 2, 0)]


def test_a_retracted_request_is_charged_for_its_whole_output() -> None:
    """``_update_prefill_budget`` takes ``max_new_tokens``, ``add_one_req`` what is left of it."""
    for kv_tokens, both in ((122, False), (123, True)):
        bench = Bench(PLAIN, kv_tokens=kv_tokens)
        bench.send(10, 30)
        bench.queue[0]["produced"] = 20
        # Charged 30 + 30 + 1; the other one asks for 61.
        bench.send(10, 50)
        assert bench.step().running == (2 if both else 1)


def test_a_cut_prompt_takes_no_more_than_is_expected_to_be_free() -> None:
    """``PrefillBudget.available_chunk_tokens``."""
    bench = Bench(plain(chunked_prefill_size=20), kv_tokens=100)
    bench.send(10, 20)
    bench.step()
    bench.send(50, 5)
    assert bench.step().prefill_tokens == 20
    bench.state[0]["ratio"] = 3.0
    # 70 tokens are free, 57 of them spoken for.
    assert bench.step().prefill_tokens == 13
    # Nothing is left over, and still it must go on.
    assert bench.step().prefill_tokens == 17


def test_running_requests_sit_out_a_mixed_step_that_leaves_them_no_room() -> None:
    server = Server(
        gamma=7, enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=4, schedule_conservativeness=0.1
    )
    bench = Bench(server, kv_tokens=60, acceptance=drafter(1.0))
    bench.send(4, 12)
    bench.steps(2)
    assert bench.produced() == {0: 9}
    # 40 tokens are free; the next round of the first needs 8 of them, the prompt leaves 5.
    bench.send(35, 1)
    assert bench.step()[:4] == ("prefill", 1, 0, 20)
    assert bench.produced() == {0: 9}


def test_an_explicit_capture_list() -> None:
    server = Server(gamma=3, cuda_graph_bs_decode=(16, 2, 4), max_running_requests=8)
    assert server.captured_requests() == 8
    assert server.tiers().tolist() == [8, 16, 32]
    roomy = server.model_copy(update={"max_running_requests": 32, "speculative": False})
    assert roomy.captured_requests() == 16
    assert roomy.tiers().tolist() == [2, 4, 16]
    bench = decoding(server, 3)
    assert bench.step().tier == 16


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": "vllm", "min_free_slots_delay": 1}, "min_free_slots_delay is a flag that vllm does not have"),
        ({"engine": "vllm", "prefill_decode_interval": 4}, "prefill_decode_interval is a flag that vllm does not have"),
        ({"engine": "vllm", "max_queued_requests": 4}, "max_queued_requests is a flag that vllm does not have"),
        ({"engine": "vllm", "cuda_graph_bs_decode": [4]}, "cuda_graph_bs_decode is a flag that vllm does not have"),
        ({"cuda_graph_bs_decode": [4], "capture_requests": 0}, "drop one"),
        ({"cuda_graph_bs_decode": []}, "at least 1 item"),
        ({"max_queued_requests": 0}, "greater than or equal to 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Server.model_validate(fields)


# Capture


@pytest.mark.parametrize(("running", "tier"), [(1, 8), (8, 64), (9, 80), (31, 256), (33, 320), (48, 384)])
def test_blocks_are_padded_to_captured_batches(running: int, tier: int) -> None:
    bench = decoding(Server(gamma=7), running, cost=step_cost(0.01, 1e-4, draft_s=0.0))
    step = bench.step()
    assert (step.kind, step.tier, step.cap) == ("decode", tier, 7 * running)
    assert step.step_s == pytest.approx(0.01 + 1e-4 * tier)
    assert bench.lengths() == [7] * running
    assert bench.metrics[0]["eager"] == 0


@pytest.mark.parametrize(
    ("mode", "running", "tier"), [("compact", 3, 16), ("compact", 9, 32), ("cap-accept", 3, 24), ("cap-accept", 9, 80)]
)
def test_only_compact_mode_shrinks_the_step(mode: str, running: int, tier: int) -> None:
    server = Server.model_validate({"gamma": 7, "verify_mode": mode})
    bench = decoding(server, running, policy=Fixed(length=2))
    assert bench.step().tier == tier
    assert bench.lengths() == [2] * running


@pytest.mark.parametrize(("running", "tier"), [(3, 4), (9, 12), (13, 16), (48, 48)])
def test_plain_decoding_is_padded_to_captured_batches(running: int, tier: int) -> None:
    bench = decoding(PLAIN, running, cost=step_cost(0.01, 1e-4))
    step = bench.step()
    assert step.tier == tier
    assert step.step_s == pytest.approx(0.01 + 1e-4 * tier)


def test_a_stock_server_drops_its_schedule_past_the_last_graph() -> None:
    server = Server(gamma=7, verify_mode="compact", capture_requests=4, max_running_requests=8)
    cost = step_cost(0.01, draft_s=0.001, eager_s=0.1)
    for running, lengths, tier, step_s in ((4, 2, 16, 0.011), (5, 7, 40, 0.101)):
        bench = decoding(server, running, cost=cost, policy=Fixed(length=2), stock=True)
        step = bench.step()
        assert bench.lengths() == [lengths] * running
        assert step.tier == tier
        assert step.step_s == pytest.approx(step_s)
        assert bench.metrics[0]["eager"] == (running > 4)


def test_a_stock_server_without_speculation_never_drafts() -> None:
    bench = decoding(plain(capture_requests=1), 2, stock=True, acceptance=drafter(1.0))
    bench.step()
    assert bench.produced() == {0: 2, 1: 2}


def test_static_mode_runs_whole_blocks_eagerly_past_the_last_graph() -> None:
    server = Server(gamma=7, capture_requests=4, max_running_requests=8)
    bench = decoding(server, 5, cost=step_cost(draft_s=0.001, eager_s=0.1))
    step = bench.step()
    assert step.tier == 40
    assert step.step_s == pytest.approx(0.101)
    assert bench.lengths() == [7] * 5


@pytest.mark.parametrize(
    ("p", "eager", "lengths", "step_s"),
    [
        # An eager step costs as much whatever it verifies, so whole blocks are free.
        (0.8, {"eager_s": 0.1}, [7] * 5, 0.101),
        # It costs 2 ms more a token: a draft that survives at 0.51 is worth it, one at 0.41 is not.
        (0.8, {"eager_s": 0.02, "eager_per_token_s": 0.002}, [3] * 5, 0.001 + 0.02 + 20 * 0.002),
        # No draft survives, and drafting takes time.
        (0.0, {"eager_s": 0.1}, [0] * 5, 0.1),
    ],
)
def test_past_the_last_graph_the_plugin_does_what_the_belief_says(
    p: float, eager: dict[str, float], lengths: list[int], step_s: float
) -> None:
    server = Server(gamma=7, verify_mode="compact", capture_requests=4, max_running_requests=8)
    cost = step_cost(draft_s=0.001, **eager)
    belief = sps_additive(cost.tabulate(), 8, 64)
    bench = decoding(server, 5, cost=cost, policy=Fixed(length=2), belief=belief, acceptance=drafter(p))
    first, *_, last = bench.steps(4)
    # Requests without confidences count as certain.
    assert first.tier == 40
    assert bench.lengths() == lengths
    assert last.tier == 5 + sum(lengths)
    assert last.step_s == pytest.approx(step_s)
    assert bench.metrics[0]["eager"] == 4


def test_without_a_belief_the_plugin_verifies_whole_blocks_past_the_last_graph() -> None:
    server = Server(gamma=7, verify_mode="compact", capture_requests=4, max_running_requests=8)
    cost = step_cost(draft_s=0.001, eager_s=0.1)
    bench = decoding(server, 5, cost=cost, policy=Fixed(length=2))
    step = bench.step()
    assert step.step_s == pytest.approx(0.101)
    assert bench.lengths() == [7] * 5
    assert step.tier == 40


@pytest.mark.parametrize("policy", [NoDraft(), Threshold(running=(1,), theta=(0.1,), off_above=4)])
def test_a_policy_that_does_not_draft_rests_past_the_last_graph_too(policy: Policy) -> None:
    server = Server(gamma=7, verify_mode="compact", capture_requests=4, max_running_requests=8)
    bench = decoding(server, 5, cost=step_cost(draft_s=0.001, eager_s=0.1), policy=policy)
    assert bench.step().step_s == pytest.approx(0.1)
    assert bench.lengths() == [0] * 5


def test_a_rest_in_cap_accept_mode_saves_the_draft_only() -> None:
    server = Server(gamma=7, verify_mode="cap-accept")
    bench = decoding(server, 3, cost=step_cost(0.01, 1e-4, draft_s=0.001), policy=NoDraft())
    step = bench.step()
    assert step.tier == 24
    assert step.step_s == pytest.approx(0.01 + 24e-4)
    assert bench.lengths() == [0] * 3


# Confidence


def caps(bench: Bench, steps: int) -> list[int]:
    return [step.cap for step in bench.steps(steps)]


@pytest.mark.parametrize("lag", [1, 2])
def test_a_request_counts_as_certain_until_its_confidences_arrive(lag: int) -> None:
    # Survivals of 0.8, 0.64, 0.512, 0.41, ...: three reach the threshold.
    server = Server.model_validate({"gamma": 7, "verify_mode": "compact", "confidence_lag_steps": lag})
    bench = decoding(server, 1, acceptance=drafter(0.8), policy=Static(theta=0.5))
    assert caps(bench, 5) == [7] * lag + [3] * (5 - lag)
    bench.send(1, 10_000)
    assert bench.step().kind == "prefill"
    assert caps(bench, 4) == [3 + 7] * lag + [6] * (4 - lag)


def test_a_rest_takes_no_confidences_away() -> None:
    policy = Threshold(running=(1,), theta=(0.5,), off_above=1)
    bench = decoding(Server(gamma=7, verify_mode="compact"), 1, acceptance=drafter(0.8), policy=policy)
    assert caps(bench, 1) == [7]
    bench.send(1, 4)
    bench.step()
    assert caps(bench, 3) == [0, 0, 0]
    assert bench.lengths() == [0]
    # The lag is of steps that draft: the second sees nothing yet.
    assert caps(bench, 3) == [7, 3, 3]


def test_mixed_steps_take_no_confidences_away() -> None:
    server = Server(
        gamma=7, verify_mode="compact", enable_mixed_chunk=True, chunked_prefill_size=60, max_running_requests=4
    )
    bench = decoding(server, 1, acceptance=drafter(0.8), policy=Static(theta=0.5))
    assert caps(bench, 3) == [7, 7, 3]
    bench.send(1, 2)
    assert bench.step().kind == "mixed"
    # The second is new, and ends at once.
    assert caps(bench, 3) == [3 + 7, 3, 3]


@pytest.mark.parametrize("lag", [1, 2])
def test_the_budget_sees_the_confidences_of_lag_steps_before(lag: int) -> None:
    """By request, while others leave and slots are filled anew."""
    theta, gamma = 0.3, 7
    server = Server.model_validate({"gamma": gamma, "verify_mode": "compact", "confidence_lag_steps": lag})
    bench = Bench(server, acceptance=uneven_drafter(), policy=Static(theta=theta), seed=5)
    rng = np.random.default_rng(3)
    history: dict[int, list[int]] = {}
    for turn in range(200):
        if turn % 8 == 0:
            bench.send(1, int(rng.integers(2, 80)))
        now: dict[int, int] = {}
        for request, produced in bench.produced().items():
            survival = np.empty(gamma, np.float32)
            propose(bench.acceptance, np.uint64(draws.stream(5, request)), 0, produced, gamma, survival)
            now[request] = int((survival >= np.float32(theta)).sum())
        step = bench.step()
        if step.kind != "decode":
            continue
        seen = [history.setdefault(request, []) for request in now]
        assert step.cap == sum(counts[-lag] if len(counts) >= lag else gamma for counts in seen)
        for request, count in now.items():
            history[request].append(count)
    assert len(history) > 20


def test_no_draft_verifies_anchors_only() -> None:
    bench = decoding(Server(gamma=7, verify_mode="compact"), 3, cost=step_cost(draft_s=1.0), policy=NoDraft())
    step = bench.step()
    assert (step.cap, step.tier) == (0, 8)
    assert step.step_s == pytest.approx(0.01)
    assert bench.lengths() == [0] * 3
    assert set(bench.produced().values()) == {2}
