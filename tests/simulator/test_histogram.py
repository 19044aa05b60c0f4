"""The streaming histogram against exact quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark_simulator import histogram

WITHIN = st.floats(histogram.LOW_S, histogram.HIGH_S, exclude_max=True)
QUANTILES = st.floats(0.0, 1.0)


def counted(values: list[float]) -> np.ndarray:
    counts = histogram.empty()
    for value in values:
        histogram.observe(counts, value, 1)
    return counts


@given(st.lists(WITHIN, min_size=1, max_size=60), QUANTILES)
def test_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    assert histogram.quantile(counted(values), q) == pytest.approx(np.quantile(values, q), rel=0.01)


@given(st.lists(st.floats(0.0, 1e-3), min_size=1, max_size=60), QUANTILES)
def test_values_below_the_first_bin_cost_ten_microseconds_at_most(values: list[float], q: float) -> None:
    exact = np.quantile(values, q)
    assert abs(histogram.quantile(counted(values), q) - exact) <= 0.01 * exact + histogram.LOW_S


@given(st.lists(st.tuples(WITHIN, st.integers(1, 5)), min_size=1, max_size=30), QUANTILES)
def test_a_weight_is_a_repetition_and_addition_merges(weighted: list[tuple[float, int]], q: float) -> None:
    merged = histogram.empty()
    for value, weight in weighted:
        one = histogram.empty()
        histogram.observe(one, value, weight)
        merged += one
    repeated = [value for value, weight in weighted for _ in range(weight)]
    np.testing.assert_array_equal(merged, counted(repeated))
    assert histogram.quantile(merged, q) == pytest.approx(np.quantile(repeated, q), rel=0.01)


def test_percentiles_of_latencies() -> None:
    latencies = np.random.default_rng(5).lognormal(-3.0, 1.5, 20_000)
    counts = counted(latencies.tolist())
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert histogram.quantile(counts, q) == pytest.approx(np.quantile(latencies, q), rel=0.01)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert math.isnan(histogram.quantile(histogram.empty(), 0.5))


def test_values_outside_the_bins_stay_countable() -> None:
    counts = counted([0.0, 1.0, math.inf, math.nan])
    assert counts.sum() == 4
    assert histogram.quantile(counts, 0.0) == 0.0
    assert histogram.quantile(counts, 1.0) == histogram.HIGH_S


def test_bins_are_at_most_one_percent_wide() -> None:
    edges = (histogram.HIGH_S / histogram.LOW_S) ** (1 / (histogram.BINS - 2))
    assert 1.0 < edges <= 1.01
    counts = histogram.empty()
    assert counts.dtype == np.int64
    assert counts.shape == (histogram.BINS,)
