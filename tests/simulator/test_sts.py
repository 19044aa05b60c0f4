from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from dspark_simulator.sts import GRID, ece, fit
from sglang_dspark.errors import InputError
from tests.published_data import published


def naive_ece(survival: list[float], accepted: list[bool], bins: int) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for b in range(bins):
        inside = [k for k, s in enumerate(survival) if b / bins <= s < (b + 1) / bins or (s == 1.0 and b == bins - 1)]
        if inside:
            gap = sum(survival[k] for k in inside) / len(inside) - sum(accepted[k] for k in inside) / len(inside)
            total += len(inside) / len(survival) * abs(gap)
    return total


def blocks(n: int, temperatures: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated after division by ``temperatures``, and the accepted prefixes."""
    rng = np.random.default_rng(seed)
    calibrated = rng.normal(1.0, 1.5, (n, len(temperatures)))
    accepted = rng.random(calibrated.shape) < 1.0 / (1.0 + np.exp(-calibrated))
    return calibrated * temperatures, np.logical_and.accumulate(accepted, axis=1)


def test_ece_by_hand() -> None:
    # Bins of [0, 0.5) and [0.5, 1]: gaps 0.25 - 0.5 and 0.9 - 0.75, weighted 2 and 4 of 6.
    survival = [0.2, 0.3, 0.8, 0.9, 0.9, 1.0]
    accepted = [True, False, True, True, True, False]
    assert ece(survival, accepted, bins=2) == pytest.approx(2 / 6 * 0.25 + 4 / 6 * 0.15)


def test_ece_equals_its_definition() -> None:
    rng = np.random.default_rng(3)
    survival = rng.random(500)
    accepted = rng.random(500) < survival**2
    for bins in (1, 7, 15, 20):
        assert ece(survival, accepted, bins) == pytest.approx(naive_ece(survival.tolist(), accepted.tolist(), bins))


def test_ece_of_nothing_is_nan() -> None:
    assert math.isnan(ece([], []))


def test_fit_recovers_the_temperatures() -> None:
    temperatures = [float(GRID[k]) for k in (20, 24, 17, 28)]
    logits, prefix_accepted = blocks(200_000, temperatures)
    step = GRID[1] / GRID[0]
    ratio = fit(logits, prefix_accepted) / temperatures
    assert np.all((ratio > 0.99 / step) & (ratio < 1.01 * step))


def test_each_temperature_is_the_best_after_those_before_it() -> None:
    logits, prefix_accepted = blocks(400, [1.6, 0.7, 1.2], seed=5)
    fitted = fit(logits, prefix_accepted, bins=10)
    survival = np.ones(len(logits))
    for j, temperature in enumerate(fitted):
        errors = []
        for candidate in GRID:
            product = survival / (1.0 + np.exp(-logits[:, j] / candidate))
            errors.append(naive_ece(product.tolist(), prefix_accepted[:, j].tolist(), 10))
        assert errors[list(GRID).index(temperature)] == pytest.approx(min(errors))
        survival /= 1.0 + np.exp(-logits[:, j] / temperature)


def test_later_positions_do_not_change_earlier_temperatures() -> None:
    logits, prefix_accepted = blocks(2000, [2.0, 1.5, 1.0, 0.5])
    assert np.array_equal(fit(logits, prefix_accepted)[:2], fit(logits[:, :2], prefix_accepted[:, :2]))


def test_grid_is_that_of_sglang() -> None:
    with published("sts_calibration_inkling.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fit"].startswith("SGLang")]
    temperatures = [float(row["temperature"]) for row in rows]
    assert len(temperatures) == 7
    for temperature in temperatures:
        assert np.abs(GRID - temperature).min() < 6e-5


@pytest.mark.parametrize(
    ("logits", "accepted", "field"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), bool), "raw_logits"),
        (np.zeros(3), np.zeros(3, bool), "raw_logits"),
        (np.full((2, 3), np.nan), np.zeros((2, 3), bool), "raw_logits"),
        (np.zeros((2, 3)), np.zeros((2, 2), bool), "prefix_accepted"),
    ],
)
def test_refuses(logits: np.ndarray, accepted: np.ndarray, field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}: ") as error:
        fit(logits, accepted)
    assert "\n" not in str(error.value)
