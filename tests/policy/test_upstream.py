"""``argmax`` and the lag ring equal SGLang 0.5.23's own planner, exactly, on golden/golden.npz (see make_golden.py)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sglang_dspark.policy import (
    Argmax,
    Engine,
    Load,
    SpsAdditiveTable,
    SpsTable,
    budget,
    compile_rule,
    lengths,
    sglang_tiers,
    survival,
)
from sglang_dspark.policy.lag import carry, fresh_survival
from tests.policy.golden import inputs
from tests.policy.golden.tables import Table

GOLDEN = Path(__file__).parent / "golden" / "golden.npz"
NOTHING_CAPTURED = np.empty(0, np.int64)

Golden = dict[str, NDArray[np.integer]]


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def groups() -> list[inputs.Group]:
    return list(inputs.groups())


@pytest.fixture(scope="module")
def sequences() -> list[inputs.Sequence]:
    return list(inputs.sequences())


def test_inputs_are_those_the_golden_file_was_made_from(
    golden: Golden, groups: list[inputs.Group], sequences: list[inputs.Sequence]
) -> None:
    provenance = json.loads(str(golden["provenance"]))
    assert provenance["sglang"] == "0.5.23"
    assert inputs.digest(groups, sequences) == provenance["inputs_sha256"]
    assert sum(len(group.lagged) for group in groups) == len(golden["budget"]) == 10_000


def test_survival_is_torchs_cumprod_bit_for_bit(golden: Golden, groups: list[inputs.Group]) -> None:
    for index, group in enumerate(groups):
        pairs = zip(group.lagged, group.current, strict=True)
        ours = _crc((survival(confidence) for pair in pairs for confidence in pair), "<f4")
        assert ours == golden["survival_crc"][index], f"group {index}"


def test_step_times_are_the_tables_bit_for_bit(golden: Golden, groups: list[inputs.Group]) -> None:
    for index, group in enumerate(groups):
        times = _belief(group.table).step_times()
        values = [
            times.tokens_s[n : n * (group.gamma + 1) + 1] + (0.0 if times.is_rate else times.requests_s[n])
            for n in inputs.probed_requests(group)
        ]
        assert _crc(values, "<f8") == golden["step_crc"][index], f"group {index}, {group.table}"


@pytest.mark.parametrize("fill", [False, True])
def test_budget_tier_and_lengths_equal_sglangs(golden: Golden, groups: list[inputs.Group], fill: bool) -> None:
    caps = golden["filled_budget" if fill else "budget"]
    lens = golden["filled_lens" if fill else "lens"]
    case = row = 0
    for index, group in enumerate(groups):
        rule = compile_rule(
            Argmax(fill=fill),
            Engine(
                gamma=group.gamma,
                tiers=sglang_tiers(group.max_requests, group.gamma),
                max_requests=group.max_requests,
                belief=_belief(group.table),
            ),
        )
        for lagged, current in zip(group.lagged, group.current, strict=True):
            requests = len(lagged)
            where = f"group {index}, case {case}, {requests} requests x {group.gamma}, {group.table}"
            load = _load(requests)
            decision = budget(rule, survival(lagged), load)
            assert (decision.tier, decision.cap) == (golden["tier"][case], caps[case]), where
            drafts = lengths(rule, survival(current), load, decision.cap)
            np.testing.assert_array_equal(drafts + 1, lens[row : row + requests], err_msg=where)
            case += 1
            row += requests
    assert (case, row) == (len(caps), len(lens))


def test_lag_ring_and_its_budgets_equal_sglangs(golden: Golden, sequences: list[inputs.Sequence]) -> None:
    at = 0
    for index, sequence in enumerate(sequences):
        engine = Engine(sequence.gamma, NOTHING_CAPTURED, sequence.pool, _belief(sequence.table))
        rule = compile_rule(Argmax(), engine)
        ring_confidence = np.zeros((sequence.carry_steps, sequence.pool, sequence.gamma), np.float32)
        ring_generation = np.zeros((sequence.carry_steps, sequence.pool), np.int64)
        lagged = []
        for call, step in enumerate(sequence.steps):
            held, rows = (step.confidence, step.generation), np.arange(len(step.slots))
            if sequence.carry_steps:
                place = call % sequence.carry_steps
                held, rows = (ring_confidence[place], ring_generation[place]), step.slots
            out = np.empty((len(step.slots), sequence.gamma), np.float32)
            lagged.append(fresh_survival(*held, rows, step.current_generation, out))
            if sequence.carry_steps:
                carry(*held, step.slots, step.confidence, step.generation)
        assert _crc(lagged, "<f4") == golden["lagged_crc"][index], f"sequence {index}, carry {sequence.carry_steps}"
        caps = [budget(rule, survivals, _load(len(survivals))).cap for survivals in lagged]
        expected = golden["lagged_budget"][at : at + len(caps)]
        np.testing.assert_array_equal(caps, expected, err_msg=f"sequence {index}, {sequence.table}")
        at += len(caps)
    assert at == len(golden["lagged_budget"])


@pytest.mark.parametrize("max_requests", inputs.MAX_REQUESTS)
def test_tiers_are_sglangs_captured_batches_times_the_block(golden: Golden, max_requests: int) -> None:
    batches = golden[f"capture_bs_{max_requests}"].astype(np.int64)
    for gamma in (1, 7, 16):
        np.testing.assert_array_equal(sglang_tiers(max_requests, gamma), batches * (gamma + 1))


def test_inputs_reach_every_corner(golden: Golden, groups: list[inputs.Group]) -> None:
    requests = np.array([len(confidence) for group in groups for confidence in group.lagged])
    drafts = np.array([confidence.size for group in groups for confidence in group.lagged])
    cap, filled = golden["budget"], golden["filled_budget"]
    assert (cap == 0).sum() > 500
    assert (cap == drafts).sum() > 500
    assert ((cap > 0) & (cap < drafts)).sum() > 2_500
    assert (filled > cap).sum() > 2_000
    assert (requests == 256).sum() > 20


def _belief(table: Table) -> SpsTable | SpsAdditiveTable:
    return SpsAdditiveTable(**table) if "bias_seconds" in table else SpsTable(**table)


def _load(requests: int) -> Load:
    return Load(context=np.full(requests, 1000), slo_class=np.zeros(requests, np.int64), queued=0, kv_use=0.5)


def _crc(arrays: Iterable[NDArray[np.floating]], dtype: str) -> int:
    return zlib.crc32(b"".join(array.astype(dtype).tobytes() for array in arrays))
