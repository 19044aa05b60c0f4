"""The lengths that the device computes are those of ``sglang_dspark.policy.lengths``."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sglang_dspark.serving.lengths as module
from sglang_dspark.policy import Engine, Load, Rule, Threshold, compile_rule, lengths, survival
from sglang_dspark.policy.rule import limits
from sglang_dspark.serving.lengths import by_upstream, on_device, ranked, verify_lengths

NO_TIERS = np.empty(0, np.int64)
# Products of these are exact in single and in double precision, so both accumulations agree.
EXACT = (0.0, 0.125, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0, float("nan"))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Rule, torch.Tensor, Load, int]:
    requests, gamma = draw(st.integers(1, 24)), draw(st.integers(1, 16))
    least = draw(st.integers(0, gamma))
    policy = Threshold(
        running=(1,),
        theta=(0.5,),
        weight=tuple(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=4))),
        price_per_token=draw(st.sampled_from([0.0, 0.0, 1e-4, 0.01])),
        min_length=least,
        max_length=draw(st.integers(least, 16)),
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    confidence = random.choice(EXACT[: draw(st.integers(4, len(EXACT)))], (requests, gamma)).astype(np.float32)
    load = Load(random.choice([1, 64, 64, 4096], requests), random.integers(0, 4, requests))
    cap = draw(st.integers(0, requests * gamma + 2))
    return compile_rule(policy, Engine(gamma, NO_TIERS, 1024)), torch.from_numpy(confidence), load, cap


@given(steps())
@settings(max_examples=400, deadline=None)
def test_device_and_host_forms_give_the_rules_lengths(step: tuple[Rule, torch.Tensor, Load, int]) -> None:
    rule, confidence, load, cap = step
    expected = (lengths(rule, survival(confidence.numpy()), load, cap) + 1).tolist()
    for form in (verify_lengths, on_device):
        found = form(rule, confidence, load, cap)
        assert found.dtype == torch.int32
        assert found.tolist() == expected, form.__name__


@given(steps())
@settings(max_examples=200, deadline=None)
def test_sglangs_scheduler_gives_the_rules_lengths_where_scores_are_survivals(
    step: tuple[Rule, torch.Tensor, Load, int],
) -> None:
    rule, confidence, load, cap = step
    record = rule[0].copy()
    record["weight"], record["price_per_token"], record["min_length"] = 1.0, 0.0, 0
    plain = (record, *rule[1:])
    last = limits(plain, len(load.context))[1]
    expected = (lengths(plain, survival(confidence.numpy()), load, cap) + 1).tolist()
    called: list[int] = []
    with mock.patch.object(module, "by_upstream", lambda *given: called.append(1) or by_upstream(*given)):
        found = on_device(plain, confidence, load, cap)
    assert found.dtype == torch.int32 and found.tolist() == expected
    assert len(called) == int(last > 0)


def test_half_precision_confidences_are_ranked_in_single() -> None:
    rule = compile_rule(Threshold(running=(1,), theta=(0.5,)), Engine(3, NO_TIERS, 1024))
    # Their products differ in float32 and are equal in bfloat16.
    confidence = torch.tensor([[0.99609375] * 3, [0.9921875] * 3], dtype=torch.bfloat16)
    load = Load(np.ones(2, np.int64), np.zeros(2, np.int64))
    expected = (lengths(rule, survival(confidence.float().numpy()), load, 4) + 1).tolist()
    assert expected == [4, 2]
    assert on_device(rule, confidence, load, 4).tolist() == expected
    assert verify_lengths(rule, confidence, load, 4).tolist() == expected


def test_ties_go_by_position_and_then_by_request() -> None:
    confidence = torch.ones((3, 4))
    assert ranked(confidence, None, 3, 0, 4).tolist() == [1, 1, 1]
    assert ranked(confidence, None, 4, 0, 4).tolist() == [2, 1, 1]
    assert ranked(confidence, None, 100, 0, 4).tolist() == [4, 4, 4]


def test_a_rule_does_not_peek_past_the_first_hopeless_draft() -> None:
    confidence = torch.tensor([[1e-7, 1.0, 1.0], [0.5, float("nan"), 1.0]])
    assert ranked(confidence, None, 6, 0, 3).tolist() == [0, 1]
