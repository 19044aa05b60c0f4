"""Paired comparison and its confidence intervals, against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dspark_tuning.search.comparison import paired, ratio, t_margin


@pytest.mark.parametrize("n", [6, 10, 20, 40, 201])
def test_t_margin_is_that_of_scipys_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert t_margin(values, 0.95) == pytest.approx((high - low) / 2, rel=1e-9)


def test_no_interval_from_too_few_replications() -> None:
    of_two = ratio(np.array([0.1, 0.2]))
    assert of_two.ratio == pytest.approx(math.exp(0.15)) and math.isnan(of_two.low)
    assert math.isnan(t_margin(np.arange(5.0), 0.975))


def test_ratio_interval_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(1.0, 0.3, 20), rng.lognormal(0.9, 0.3, 20)
    expected = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    interval = ratio(np.log(a) - np.log(b))
    assert (interval.low, interval.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)), rel=1e-9)


def test_pairs_are_by_seed_and_average_over_loads() -> None:
    scores = pd.DataFrame(
        [
            (arm, load, seed, base + load + 10 * seed)
            for arm, base in (("x", 0.5), ("y", 0.0))
            for load in (1, 2)
            for seed in (3, 1)
        ],
        columns=["arm", "load", "seed", "score"],
    )
    shuffled = scores.sample(frac=1.0, random_state=0)
    assert paired(shuffled, "x", "y").tolist() == pytest.approx([0.5, 0.5])
