"""The decision rule against brute force, the captured tiers, and the paper's losslessness argument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_dspark.errors import InputError
from sglang_dspark.jit import njit
from sglang_dspark.policy import (
    Argmax,
    EagerTimes,
    Engine,
    Fixed,
    Greedy,
    Load,
    NoDraft,
    Policy,
    SpsAdditiveTable,
    SpsTable,
    Static,
    Threshold,
    budget,
    compile_rule,
    lengths,
    sglang_tiers,
    survival,
    vllm_tiers,
)
from sglang_dspark.policy.belief import MAX_TOKENS
from sglang_dspark.policy.dispatch import address
from sglang_dspark.policy.rule import fits, pad

TABLE = SpsAdditiveTable(
    bias_seconds=0.004,
    bs_probes=(1, 256),
    alpha_seconds=(0.001, 0.005),
    m_probes=(1, 512, 2048),
    theta_seconds=(0.005, 0.012, 0.06),
)
WEIGHTED = Threshold(
    running=(1, 16, 128), theta=(0.05, 0.3, 0.6), weight=(1.0, 2.0), price_per_token=1e-4, max_length=5, fill=True
)
BOUNDED = Threshold(running=(4,), theta=(0.9,), min_length=2, max_length=6, off_above=100)
FAMILIES: list[Policy] = [
    NoDraft(),
    Fixed(length=3),
    Static(theta=0.4),
    Greedy(),
    Argmax(),
    Argmax(fill=True),
    WEIGHTED,
    BOUNDED,
]
NO_TIERS = np.empty(0, np.int64)


class GraphRunner:
    """What SGLang's runner offers of its captured graphs (``DecodeCudaGraphRunner``)."""

    def __init__(self, max_bs: int, gamma: int) -> None:
        self.max_bs = max_bs
        self.capture_num_tokens = sglang_tiers(max_bs, gamma)

    def engine(self, gamma: int) -> Engine:
        return Engine(gamma, self.capture_num_tokens, self.max_bs, TABLE)


def random_survival(rng: np.random.Generator, requests: int, gamma: int) -> np.ndarray:
    shape = rng.choice([0.3, 1.0, 5.0, 20.0])
    confidence = rng.beta(shape, 1.0, (requests, gamma)).astype(np.float32)
    if rng.random() < 0.3:
        confidence = np.round(confidence * 4).astype(np.float32) / 4
    return survival(confidence)


def random_load(rng: np.random.Generator, requests: int) -> Load:
    return Load(rng.integers(1, 30_000, requests), rng.integers(0, 2, requests), 3, 0.5)


def by_hand(policy: Policy, current: np.ndarray, load: Load, cap: int, gamma: int) -> np.ndarray:
    """Rank with Python's sort: score, then position, then request."""
    least, most = getattr(policy, "min_length", 0), min(getattr(policy, "max_length", gamma), gamma)
    if isinstance(policy, Fixed):
        most = min(policy.length, gamma)
    requests = len(current)
    least = min(least, most)
    first = least if requests * least <= cap else 0
    weight = np.ones(16)
    weight[: len(getattr(policy, "weight", ()))] = getattr(policy, "weight", ())
    price = 1.0 + getattr(policy, "price_per_token", 0.0) * load.context
    factor = (weight[load.slo_class] / price).astype(np.float32)
    ranked = sorted(
        (-(factor[r] * current[r, j]), j, r)
        for r in range(requests)
        for j in range(first, most)
        if current[r, j] >= np.float32(1e-6)
    )
    out = np.full(requests, first)
    for _, _, r in ranked[: max(cap - requests * first, 0)]:
        out[r] += 1
    return out


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_lengths_are_the_caps_best_drafts(policy: Policy) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        requests, gamma = int(rng.integers(1, 40)), int(rng.integers(1, 17))
        rule = compile_rule(policy, Engine(gamma, NO_TIERS, 1024, TABLE))
        current, load = random_survival(rng, requests, gamma), random_load(rng, requests)
        cap = int(rng.integers(0, requests * gamma + 2))
        assert lengths(rule, current, load, cap).tolist() == by_hand(policy, current, load, cap, gamma).tolist()


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_a_step_never_outgrows_its_captured_tier(policy: Policy) -> None:
    rng = np.random.default_rng(2)
    for _ in range(400):
        gamma, max_bs = int(rng.integers(1, 17)), int(rng.integers(1, 300))
        runner = GraphRunner(max_bs, gamma)
        requests = int(rng.integers(1, max_bs + 20))
        rule = compile_rule(policy, runner.engine(gamma))
        load = random_load(rng, requests)
        decision = budget(rule, random_survival(rng, requests, gamma), load)
        chosen = lengths(rule, random_survival(rng, requests, gamma), load, decision.cap)
        assert requests + chosen.sum() <= decision.tier
        assert chosen.min() >= 0 and chosen.max() <= gamma and chosen.sum() <= decision.cap
        if requests <= runner.max_bs:
            assert decision.tier in runner.capture_num_tokens
        else:
            assert decision.tier == requests + decision.cap


def test_argmax_and_greedy_by_enumeration() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        requests, gamma = int(rng.integers(1, 30)), 7
        lagged, load = random_survival(rng, requests, gamma), random_load(rng, requests)
        best = np.sort(lagged[lagged >= np.float32(1e-6)].astype(np.float64))[::-1]
        tau = requests + np.concatenate([[0.0], np.cumsum(best)])
        m = requests + np.arange(len(tau))
        step = (
            0.004 + np.interp(requests, (1, 256), (0.001, 0.005)) + np.interp(m, (1, 512, 2048), (0.005, 0.012, 0.06))
        )
        rate = tau / step
        engine = Engine(gamma, NO_TIERS, 1024, TABLE)
        assert rate[budget(compile_rule(Argmax(), engine), lagged, load).cap] == pytest.approx(rate.max(), rel=1e-12)
        falls = np.flatnonzero(np.diff(rate) < 0)
        stop = int(falls[0]) if len(falls) else len(rate) - 1
        assert budget(compile_rule(Greedy(), engine), lagged, load).cap == stop


def test_greedy_stops_where_a_staircase_hides_the_summit() -> None:
    table = SpsTable(sample_batch_tokens=(1, 2, 3), sample_steps_per_sec=(1.0, 0.5, 0.45), max_batch_tokens=3)
    engine = Engine(2, NO_TIERS, 8, table)
    high, load = survival(np.array([[0.8, 0.99]], np.float32)), Load(np.array([1]), np.array([0]))
    assert budget(compile_rule(Greedy(), engine), high, load).cap == 0
    assert budget(compile_rule(Argmax(), engine), high, load).cap == 2


EAGER = EagerTimes(tokens=(1, 400, 2048), seconds=(0.03, 0.03, 0.12), request_s=1e-5)


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_past_the_graphs_the_belief_decides_alike_for_every_family(policy: Policy) -> None:
    """By enumeration: the most expected tokens a second, of every cap and of a rest."""
    rng = np.random.default_rng(4)
    table = TABLE.model_copy(update={"eager": EAGER})
    gamma, decisions = 7, set()
    for _ in range(100):
        requests = int(rng.choice([17, 40, 90, 250]))
        rule = compile_rule(policy, Engine(gamma, sglang_tiers(16, gamma), 16, table))
        hope = np.float32(rng.choice([0.01, 1.0]))
        lagged, load = hope * random_survival(rng, requests, gamma), random_load(rng, requests)
        decision = budget(rule, lagged, load)
        if isinstance(policy, NoDraft) or requests > (getattr(policy, "off_above", None) or math.inf):
            assert decision == (requests, 0, False)
            continue
        best = np.sort(lagged[lagged >= np.float32(1e-6)].astype(np.float64))[::-1]
        tau = requests + np.concatenate([[0.0], np.cumsum(best)])
        eager_s = np.interp(requests + np.arange(len(tau)), EAGER.tokens, EAGER.seconds)
        rates = tau / (0.004 + np.interp(requests, (1, 256), (0.001, 0.005)) + eager_s)
        resting = requests / (0.004 + 1e-5 * requests + eager_s[0])
        decisions.add(decision.draft)
        assert decision.draft == (rates.max() >= resting)
        if decision.draft:
            assert rates[decision.cap] == pytest.approx(rates.max(), rel=1e-12)
            assert decision.tier == requests + decision.cap
        else:
            assert decision == (requests, 0, False)
        # Neither are the lengths the family's: what is admitted is the best that was drafted.
        chosen = lengths(rule, lagged, load, decision.cap)
        assert chosen.sum() == min(decision.cap, len(best))
    if not isinstance(policy, NoDraft):
        assert decisions == {True, False}


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_past_the_graphs_a_belief_that_does_not_know_eager_steps_leaves_whole_blocks(policy: Policy) -> None:
    rule = compile_rule(policy, Engine(7, sglang_tiers(4, 7), 4, TABLE))
    load = Load(np.ones(5, np.int64), np.zeros(5, np.int64))
    decision = budget(rule, np.full((5, 7), 0.01, np.float32), load)
    if isinstance(policy, NoDraft):
        assert decision == (5, 0, False)
        return
    assert decision == (40, 35, True)
    assert lengths(rule, np.full((5, 7), 0.01, np.float32), load, decision.cap).tolist() == [7] * 5


def test_theta_is_linear_in_log2_of_the_running_requests() -> None:
    policy = Threshold(running=(4, 64), theta=(0.2, 0.8))
    rule = compile_rule(policy, Engine(1, NO_TIERS, 1024))
    for requests, theta in [(1, 0.2), (4, 0.2), (8, 0.35), (16, 0.5), (64, 0.8), (500, 0.8)]:
        load = Load(np.ones(requests, np.int64), np.zeros(requests, np.int64))
        for score, expected in [(theta - 1e-3, 0), (theta + 1e-3, requests)]:
            assert budget(rule, np.full((requests, 1), score, np.float32), load).cap == expected


def test_drafting_stops_above_the_load_that_the_policy_names() -> None:
    rule = compile_rule(BOUNDED, Engine(7, NO_TIERS, 1024))
    for requests, draft in [(100, True), (101, False)]:
        load = Load(np.ones(requests, np.int64), np.zeros(requests, np.int64))
        decision = budget(rule, np.ones((requests, 7), np.float32), load)
        assert decision.draft is draft
        assert decision.cap == (600 if draft else 0)


# The paper's Appendix A in one request: two tokens, drafted evenly, wanted at (0.7, 0.3). The confidence of the second
# draft depends on the first token drawn. Verifying two drafts pays, verifying one does not.
TARGET, DRAFT = np.array([0.7, 0.3]), np.array([0.5, 0.5])
CURRENT = [np.array([[0.8, 0.99]], np.float32), np.array([[0.8, 0.01]], np.float32)]
STAIRS = SpsTable(sample_batch_tokens=(1, 2, 3), sample_steps_per_sec=(1.0, 0.5, 0.45), max_batch_tokens=3)


def first_token_distribution(verify: list[bool]) -> np.ndarray:
    """Exact distribution of the first token when draft x is verified iff ``verify[x]``."""
    residual = np.maximum(TARGET - DRAFT, 0) / np.maximum(TARGET - DRAFT, 0).sum()
    out = np.zeros(2)
    for x in range(2):
        kept = min(1.0, TARGET[x] / DRAFT[x])
        if verify[x]:
            out[x] += DRAFT[x] * kept
            out += DRAFT[x] * (1 - kept) * residual
        else:
            out += DRAFT[x] * TARGET
    return out


def test_a_scheduler_that_looks_back_from_later_confidences_is_not_lossless() -> None:
    rule = compile_rule(Argmax(), Engine(2, NO_TIERS, 8, STAIRS))
    load = Load(np.array([100]), np.array([0]))
    verify = []
    for confidence in CURRENT:
        current = survival(confidence)
        cap = budget(rule, current, load).cap
        verify.append(bool(lengths(rule, current, load, cap)[0] >= 1))
    assert first_token_distribution(verify) == pytest.approx([0.85, 0.15])


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
@pytest.mark.parametrize("lagged", [CURRENT[0], CURRENT[1], np.ones((1, 2), np.float32)])
def test_every_family_is_lossless_on_the_papers_example(policy: Policy, lagged: np.ndarray) -> None:
    rule = compile_rule(policy, Engine(2, NO_TIERS, 8, STAIRS))
    load = Load(np.array([100]), np.array([0]))
    cap = budget(rule, survival(lagged), load).cap
    verify = [bool(lengths(rule, survival(confidence), load, cap)[0] >= 1) for confidence in CURRENT]
    assert first_token_distribution(verify) == pytest.approx([0.7, 0.3])


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_admission_ignores_whatever_comes_later(policy: Policy, data: st.DataObject) -> None:
    gamma, requests = 4, data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    rule = compile_rule(policy, Engine(gamma, NO_TIERS, 8, TABLE))
    load = random_load(rng, requests)
    confidence = np.round(rng.random((requests, gamma)) * 4).astype(np.float32) / 4
    r, k = data.draw(st.integers(0, requests - 1)), data.draw(st.integers(0, gamma - 1))
    cap = data.draw(st.integers(0, requests * gamma))
    changed = confidence.copy()
    changed[r, k + 1 :] = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    before = lengths(rule, survival(confidence), load, cap)[r] > k
    after = lengths(rule, survival(changed), load, cap)[r] > k
    assert before == after


def test_nan_confidence_is_never_verified() -> None:
    rule = compile_rule(Static(theta=0.0), Engine(3, NO_TIERS, 8))
    current = np.array([[0.9, np.nan, 0.5], [0.8, 0.7, 0.6]], np.float32)
    load = Load(np.array([1, 1]), np.array([0, 0]))
    assert lengths(rule, current, load, 6).tolist() == [1, 3]


def test_engine_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(InputError, match=r"gamma: 17 .* use 1 to 16"):
        compile_rule(NoDraft(), Engine(17, NO_TIERS, 8))
    with pytest.raises(InputError, match="'argmax' needs a cost belief"):
        compile_rule(Argmax(), Engine(7, NO_TIERS, 8))
    with pytest.raises(InputError, match="max_requests: 2000"):
        compile_rule(NoDraft(), Engine(7, NO_TIERS, 2000))
    with pytest.raises(InputError, match=f"tiers: {MAX_TOKENS + 1} captured tokens; capture at most {MAX_TOKENS}"):
        compile_rule(NoDraft(), Engine(7, np.array([8, MAX_TOKENS + 1]), 8))


def test_a_family_that_no_rule_decides_by_is_refused() -> None:
    class Odd(Fixed):
        compute_budget = staticmethod(lambda rule, survival, context, slo_class: 0)

    class Half(Fixed):
        compute_budget = staticmethod(njit()(lambda rule, survival, context, slo_class: survival.shape[0] / 2))

    with pytest.raises(InputError, match="'fixed' has no compiled `compute_budget`; decorate it") as caught:
        compile_rule(Odd(length=1), Engine(7, NO_TIERS, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="'fixed' returns float64; return an int"):
        compile_rule(Half(length=1), Engine(7, NO_TIERS, 8))
    for policy in FAMILIES:
        rule = compile_rule(policy, Engine(7, NO_TIERS, 8, TABLE))
        assert rule[0]["compute_budget"] == address(policy) != 0


@pytest.mark.parametrize("tiers", [sglang_tiers(1024, 16), vllm_tiers(4096), vllm_tiers(MAX_TOKENS), [3, 5, 90]])
def test_any_number_of_sizes_may_be_captured(tiers: np.ndarray) -> None:
    tiers = np.asarray(tiers, np.int64)
    rule = compile_rule(Fixed(length=1), Engine(16, tiers, 1024))
    for tokens in (1, 3, 4, 257, 4095, 4096, 4097, MAX_TOKENS):
        above = tiers[tiers >= tokens]
        assert pad(rule, 1, tokens) == (above[0] if len(above) else tokens)
        assert fits(rule, 1, tokens) == (len(above) > 0)


def test_captured_sizes_are_sglangs() -> None:
    tiers = sglang_tiers(48, 7)
    assert tiers.tolist()[:4] == [8, 16, 24, 32]
    assert tiers[-1] == 48 * 8 and len(tiers) == 23
    assert sglang_tiers(50, 7)[-1] == 400
    assert sglang_tiers(512, 0).tolist()[:6] == [1, 2, 4, 8, 12, 16]
    assert math.log2(sglang_tiers(512, 0)[-1]) == 9
