"""Draws are uniform, and independent across indices, purposes, requests and seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numba import njit
from scipy import stats

from dspark_simulator import draws

SIDE = 400
N = SIDE * SIDE

# A sample is drawn along two of the four coordinates (seed, request, index, purpose) from a corner.
CORNER = np.array([3, 17, 5, 8])
COORDINATES = ("seed", "request", "index", "purpose")
PLANES = list(itertools.combinations(range(4), 2))


@njit
def bits_of(points: np.ndarray) -> np.ndarray:
    out = np.empty(len(points), np.uint64)
    for i in range(len(points)):
        seed, request, index, purpose = points[i]
        out[i] = draws.draw(draws.stream(seed, request), index, purpose)
    return out


@njit
def streams_of(seeds: int, requests: int) -> np.ndarray:
    out = np.empty(seeds * requests, np.uint64)
    for seed in range(seeds):
        for request in range(requests):
            out[seed * requests + request] = draws.stream(seed, request)
    return out


@njit
def uniforms_of(bits: np.ndarray) -> np.ndarray:
    out = np.empty(len(bits))
    for i in range(len(bits)):
        out[i] = draws.uniform(bits[i])
    return out


@njit
def normals_of(bits: np.ndarray) -> np.ndarray:
    out = np.empty(len(bits))
    for i in range(len(bits)):
        out[i] = draws.normal(bits[i])
    return out


@njit
def mixed(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        out[i] = draws.mix(values[i])
    return out


def plane(axes: tuple[int, int]) -> np.ndarray:
    """Uniform numbers, float64 [SIDE, SIDE], at a grid of two coordinates."""
    points = np.tile(CORNER, (N, 1))
    rows, columns = np.divmod(np.arange(N), SIDE)
    points[:, axes[0]] += rows
    points[:, axes[1]] += columns
    drawn: np.ndarray = uniforms_of(bits_of(points))
    return drawn.reshape(SIDE, SIDE)


def named(axes: tuple[int, int]) -> str:
    return "-".join(COORDINATES[axis] for axis in axes)


@pytest.mark.parametrize("axes", PLANES, ids=named)
def test_uniform(axes: tuple[int, int]) -> None:
    u = plane(axes)
    assert u.min() >= 0.0 and u.max() < 1.0
    counts = np.bincount((u.ravel() * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    # The low bits too: the cells within the 256ths.
    counts = np.bincount((u.ravel() * 2**32 % 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (1, 1), (1, -1)], ids=str)
@pytest.mark.parametrize("axes", PLANES, ids=named)
def test_neighbours_are_independent(axes: tuple[int, int], step: tuple[int, int]) -> None:
    """A chi-square over 16 x 16 cells of a draw and its neighbour, and their correlation."""
    u = plane(axes)
    here, there = u, np.roll(u, (-step[0], -step[1]), (0, 1))
    here, there = here[: SIDE - 1, 1 : SIDE - 1].ravel(), there[: SIDE - 1, 1 : SIDE - 1].ravel()
    cells = (here * 16).astype(int) * 16 + (there * 16).astype(int)
    assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > 1e-3
    assert abs(np.corrcoef(here, there)[0, 1]) < 4 / np.sqrt(len(here))


@pytest.mark.parametrize("axes", PLANES, ids=named)
def test_no_draw_is_used_twice(axes: tuple[int, int]) -> None:
    assert len(np.unique(plane(axes))) == N


def test_streams_do_not_meet() -> None:
    keys = streams_of(1000, 1000)
    assert len(np.unique(keys)) == len(keys)


def test_every_input_bit_moves_half_of_the_output_bits() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**64, 4096, dtype=np.uint64)
    for bit in range(64):
        changed = mixed(values) ^ mixed(values ^ np.uint64(1 << bit))
        share = np.unpackbits(changed.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        # Six standard errors of a fair coin.
        assert abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(len(values))


def test_normal_is_the_sum_of_four_uniforms() -> None:
    """Irwin and Hall: variance 1 once scaled, excess kurtosis -1.2 / 4, bounded by 2 sqrt 3."""
    points = np.tile(CORNER, (1_000_000, 1))
    points[:, 2] += np.arange(len(points))
    x = normals_of(bits_of(points))
    n = len(x)
    fourth = 3 - 0.3
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.var() - 1) < 4 * np.sqrt((fourth - 1) / n)
    assert abs(stats.skew(x)) < 4 * np.sqrt(6 / n)
    assert stats.kurtosis(x) == pytest.approx(-0.3, abs=4 * np.sqrt(24 / n))
    assert abs(x).max() < 2 * np.sqrt(3)
    sums = np.random.default_rng(5).random((n, 4)).sum(axis=1)
    assert stats.ks_2samp(x, (sums - 2) * np.sqrt(3)).pvalue > 1e-3


def test_normals_are_independent() -> None:
    points = np.tile(CORNER, (N, 1))
    points[:, 2] += np.arange(N)
    x = normals_of(bits_of(points))
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 4 / np.sqrt(N)
    assert abs(np.corrcoef(x[1:] ** 2, x[:-1] ** 2)[0, 1]) < 4 / np.sqrt(N)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_python_and_compiled_code_draw_alike(seed: int) -> None:
    points = np.array([(seed, request, index, draws.ROUTE) for request in range(50) for index in range(3)])
    called = [draws.uniform_of(*(int(x) for x in point)) for point in points]
    np.testing.assert_array_equal(called, uniforms_of(bits_of(points)))
