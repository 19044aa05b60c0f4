"""The applied budget is ``policy.budget`` of exactly the survivals that upstream's lag ring gives upstream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dspark_simulator.engines import lag_ring, round
from sglang_dspark.policy import (
    Argmax,
    EagerTimes,
    Engine,
    Load,
    SpsTable,
    budget,
    compile_rule,
    lag,
    rule,
    sglang_tiers,
    survival,
)
from sglang_dspark.policy.belief import sps_json
from sglang_dspark.serving import bound_rule, live_policy
from sglang_dspark.serving.bound_rule import BoundRule, Lagged
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.steps import Mode
from tests.serving.harness import FAMILIES, Driver, random_confidence, upstream

GAMMA, SLOTS = 4, 14
LAG = "SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS"


@pytest.mark.parametrize("policy", FAMILIES, ids=str)
def test_budget_is_the_rules_over_fresh_survivals(policy) -> None:
    draw = np.random.default_rng(0)
    bound = BoundRule(compile_rule(policy, Engine(GAMMA, sglang_tiers(16, GAMMA), 16, offline.BELIEF)))
    for _ in range(150):
        rows = draw.permutation(SLOTS)[: draw.integers(1, SLOTS)]
        n = len(rows)
        confidence = random_confidence(draw, SLOTS, GAMMA)
        generation, now = draw.integers(0, 3, SLOTS), draw.integers(0, 3, n)
        load = Load(draw.integers(1, 9000, n), draw.integers(0, 2, n))
        lagged = Lagged(confidence, generation, rows, now)
        fresh = (now >= 1) & (generation[rows] == now)
        survivals = np.where(fresh[:, None], survival(confidence[rows]), np.float32(1))
        for given, expected in ((lagged, survivals), (None, np.ones((n, GAMMA), np.float32))):
            np.testing.assert_array_equal(bound.survival(given, n), expected)
            assert budget(bound.rule, bound.survival(given, n), load) == budget(bound.rule, expected, load)


def test_simulator_and_live_engine_share_the_rule_for_requests_not_seen_to_draft() -> None:
    assert lag_ring.unseen is lag.unseen is bound_rule.unseen
    assert round.compute_budget is rule.compute_budget is live_policy.compute_budget
    assert round.drops_schedule is bound_rule.drops_schedule


def test_believed_time_of_an_eager_step_is_the_beliefs_or_unknown() -> None:
    tiers = sglang_tiers(4, GAMMA)
    knowing = offline.BELIEF.model_copy(update={"eager": EagerTimes(tokens=(1, 101), seconds=(0.1, 0.2))})
    ours, ignorant = (BoundRule(compile_rule(Argmax(), Engine(GAMMA, tiers, 4, b))) for b in (knowing, offline.BELIEF))
    assert ours.believed_s(4, 20) == ignorant.believed_s(4, 20) < 0.1
    assert ours.believed_s(5, 21) == pytest.approx(0.01 + 0.001 * 4 / 63 + 0.12)
    assert np.isnan(ignorant.believed_s(5, 21))


def test_believed_time_is_the_tables() -> None:
    from sglang.srt.speculative.dspark_components.dspark_sps import SpsAdditiveCostTable, SpsCostTable

    additive = SpsAdditiveCostTable.from_json(sps_json(offline.BELIEF))
    floor = SpsTable(sample_batch_tokens=(1, 8, 64), sample_steps_per_sec=(90.0, 80.0, 20.0), max_batch_tokens=64)
    rates = SpsCostTable.from_json(sps_json(floor))
    ours, theirs = (
        BoundRule(compile_rule(Argmax(), Engine(GAMMA, np.empty(0, np.int64), 9, b))) for b in (offline.BELIEF, floor)
    )
    for requests, tokens in ((1, 1), (3, 15), (64, 70), (100, 500)):
        assert ours.believed_s(requests, tokens) == pytest.approx(
            additive.step_time(num_reqs=requests, budget=tokens - requests)
        )
        assert theirs.believed_s(requests, tokens) == pytest.approx(1 / rates.lookup(tokens))


class Traffic:
    """Requests that come, go, sit steps out and share slots; the same for whoever replays it."""

    def __init__(self, pool: torch.Tensor, seed: int) -> None:
        self.draw, self.pool = np.random.default_rng(seed), pool

    def step(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        draw = self.draw
        for slot in np.flatnonzero(draw.random(SLOTS) < 0.15):
            self.pool[slot] += 1  # Given to another request.
        slots = draw.permutation(np.arange(1, SLOTS))[: draw.integers(1, SLOTS - 1)]
        n = len(slots)
        relayed = None
        if draw.random() < 0.8:
            generation = self.pool[torch.from_numpy(slots)].numpy() - (draw.random(n) < 0.2)
            relayed = (random_confidence(draw, n, GAMMA), generation)
        return slots, random_confidence(draw, n, GAMMA), relayed


def survivals(reference, slots: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None, pool: torch.Tensor):
    """What upstream's own functions make of a step's confidences."""
    if seen is None:
        return np.ones((len(slots), GAMMA), np.float32)
    rows = torch.from_numpy(slots)
    confidence, generation = reference._shift_to_lag(
        confidence=torch.from_numpy(seen[0]), generation=torch.from_numpy(seen[1]), req_pool_indices_cpu=rows
    )
    return reference._two_steps_prior_survival(
        lagged_confidence=confidence, lagged_generation=generation, current_generation=pool[rows]
    ).numpy()


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_lag_ring_is_upstreams_and_stays_so(hooked, monkeypatch, lag: int, overlap: bool) -> None:
    monkeypatch.setenv(LAG, str(lag))
    tiers = sglang_tiers(16, GAMMA).tolist()
    from sglang.srt.speculative.dspark_components.dspark_sps import SpsAdditiveCostTable

    table = SpsAdditiveCostTable.from_json(sps_json(offline.BELIEF))
    for policy in (FAMILIES[4], FAMILIES[7]):
        arguments = {"gamma": GAMMA, "slots": SLOTS, "tiers": tiers, "max_requests": 16, "overlap": overlap}
        with offline.planner(**arguments) as ours, offline.planner(**arguments) as theirs:
            live = offline.attach(ours, offline.artifact(policy, GAMMA))
            reference = theirs._budget_planner
            assert reference.carry_steps == max(lag - 2 * overlap, 0)
            ours._budget_planner.sps_table = reference.sps_table = table
            driver, pool = Driver(ours, overlap), ours.model_runner.req_to_token_pool.req_generation
            pool[:] = 0
            traffic = Traffic(pool, lag)
            budgets = set()
            for i in range(120):
                if i == 60:
                    live.policy.requested_mode = Mode.OFF  # Holds from step 61.
                slots, confidence, relayed = traffic.step()
                # Without overlap the step's own confidences enter the ring, under the generations of now.
                seen = relayed if overlap else (confidence, pool[torch.from_numpy(slots)].numpy().copy())
                if i <= 60:
                    survival = survivals(reference, slots, seen, pool)
                    made = driver.step(slots, confidence, relayed)
                    expected = budget(made.step.in_force.bound.rule, survival, made.step.load)
                    assert made.step.budget == expected, f"step {i}"
                    assert made.budget == expected.cap
                    budgets.add(expected.cap)
                    continue
                assert live.policy.mode is Mode.OFF or i == 61
                made = driver.step(slots, confidence, relayed)
                expected_cap = None
                if seen is not None:
                    rows = torch.from_numpy(slots)
                    expected_cap = upstream(reference.compute_budget)(
                        confidence=torch.from_numpy(seen[0]),
                        generation=torch.from_numpy(seen[1]),
                        current_generation=pool[rows],
                        req_pool_indices_cpu=rows,
                    )
                assert made.budget == expected_cap, f"step {i}"
                assert live.policy.mode is Mode.OFF
            assert len(budgets) > 10
