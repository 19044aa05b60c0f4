"""Verify lengths of the kernel equal the policy's, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dspark_kernels.verify_lengths import reference_lengths, verify_lengths
from sglang_dspark.policy import Engine, Load, Threshold, compile_rule, lengths, survival
from sglang_dspark.policy.record import SURVIVAL_FLOOR

FLOOR = float(SURVIVAL_FLOOR)
NO_TIERS = np.empty(0, np.int64)


def confidences(random: np.random.Generator, requests: int, gamma: int) -> np.ndarray:
    values = random.beta(random.choice([0.3, 1.0, 5.0, 20.0]), 1.0, (requests, gamma)).astype(np.float32)
    if random.random() < 0.4:
        values = np.round(values * 4).astype(np.float32) / 4
    if random.random() < 0.2:
        values[random.integers(requests), random.integers(gamma)] = np.nan
    if random.random() < 0.2:
        values[:] = 1.0
    return values


@pytest.mark.parametrize("weighted", [False, True])
def test_lengths_are_the_policys(weighted: bool) -> None:
    random = np.random.default_rng(int(weighted))
    for turn in range(150):
        requests, gamma = int(random.integers(1, 70)), int(random.integers(1, 17))
        least = int(random.integers(0, 3)) if gamma > 2 else 0
        most = int(random.integers(max(least, 1), gamma + 1))
        policy = Threshold(
            running=(1,),
            theta=(0.1,),
            weight=(1.0, 2.0, 0.7) if weighted else (1.0,),
            price_per_token=1e-4 if weighted else 0.0,
            min_length=least,
            max_length=most,
        )
        rule = compile_rule(policy, Engine(gamma, NO_TIERS, 1024))
        load = Load(random.integers(1, 30_000, requests), random.integers(0, 3 if weighted else 1, requests))
        given = confidences(random, requests, gamma)
        cap = int(random.integers(0, requests * gamma + 2))
        expected = lengths(rule, survival(given), load, cap)
        extra = {}
        if weighted:
            extra = {
                "weights": torch.from_numpy(rule[0]["weight"].copy()),
                "price": torch.tensor([policy.price_per_token], dtype=torch.float64),
                "classes": torch.from_numpy(load.slo_class),
                "context": torch.from_numpy(load.context),
            }
        given_cap = torch.tensor([cap], dtype=torch.int32) if turn % 2 else cap
        ours = verify_lengths(
            torch.from_numpy(given), given_cap, floor=FLOOR, least=least, most=most, with_anchor=turn % 3 == 0, **extra
        )
        assert (ours - int(turn % 3 == 0)).tolist() == expected.tolist()


@pytest.mark.parametrize("requests", [1, 1024])
def test_the_smallest_and_the_largest_batch(requests: int) -> None:
    given = torch.rand(requests, 16, generator=torch.Generator().manual_seed(3)) ** 0.1
    for cap in (0, 1, requests * 5, requests * 16, requests * 16 + 5):
        ours = verify_lengths(given, cap, floor=FLOOR)
        assert ours.sum() == min(cap, int((given.double().cumprod(1).float() >= FLOOR).sum()))
        assert torch.equal(ours, reference_lengths(given, cap, floor=FLOOR, most=16))
