"""Objectives, scores of arms, and their comparison when a score is at its floor."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

from dspark_simulator import scenario as scenarios
from dspark_simulator.workloads import Poisson
from dspark_tuning.cli.tune import tune
from dspark_tuning.search.comparison import Difference, Ratio, gain, gain_of
from dspark_tuning.search.objectives import METRICS, Objective, default_objective, score_figure, scores

SEEDS = range(6)


def rows(**arms: dict[float, dict[str, Any]]) -> pd.DataFrame:
    """Rows of arms by load; a figure is given once or as one a seed."""
    plain = {"requests": 100, "window_s": 10.0, "throughput_tok_s": 1000.0, "goodput_per_s": 10.0, "tpot_mean_s": 0.02}
    return pd.DataFrame(
        [
            {"arm": arm, "load": load, "seed": seed}
            | {name: value[seed] if isinstance(value, list) else value for name, value in (plain | given).items()}
            for arm, loads in arms.items()
            for (load, given), seed in product(loads.items(), SEEDS)
        ]
    )


def test_every_objective_is_a_metric_and_a_choice_of_the_command() -> None:
    choices, _ = get_args(get_type_hints(tune)["objective"])
    assert set(METRICS) == set(get_args(Objective)) == set(get_args(choices))
    assert all(part in METRICS for metric in METRICS.values() for part in metric.parts)


def test_an_open_loop_is_tuned_for_goodput() -> None:
    closed = scenarios.load("b300-v4flash")
    at_a_rate = closed.with_workload(closed.workload.model_copy(update={"arrivals": Poisson(rate_per_s=20.0)}))
    assert (default_objective(closed), default_objective(at_a_rate)) == ("throughput", "goodput")


@pytest.mark.parametrize("objective", ["tpot", "front"])
def test_a_low_tpot_does_not_pay_for_requests_that_wait(objective: str) -> None:
    found = rows(
        waits={0.5: {"ttft_attainment": 1.0}, 1.0: {"ttft_attainment": 0.94, "tpot_mean_s": 0.001}},
        waits_more={0.5: {"ttft_attainment": 0.2}, 1.0: {"ttft_attainment": 1.0, "tpot_mean_s": 0.0001}},
        slow={0.5: {"ttft_attainment": 1.0}, 1.0: {"ttft_attainment": [0.9] + [0.97] * 5, "tpot_mean_s": 2.0}},
        fast={0.5: {"ttft_attainment": 1.0}, 1.0: {"ttft_attainment": 0.95}},
    )
    score = scores(found, objective)
    assert sorted(score.index, key=lambda arm: -score[arm]) == ["fast", "slow", "waits", "waits_more"]
    assert score_figure(score["fast"]) == pytest.approx({"tpot": 50.0, "front": math.sqrt(50.0 * 1000.0)}[objective])
    assert math.isnan(score_figure(score["waits"]))


def test_throughput_and_goodput_need_no_ttft() -> None:
    found = rows(waits={1.0: {"ttft_attainment": 0.0}})
    assert score_figure(scores(found, "throughput")["waits"]) == pytest.approx(1000.0)
    assert score_figure(scores(found, "goodput")["waits"]) == pytest.approx(10.0)


def test_a_run_in_which_nothing_was_done_has_no_speed() -> None:
    found = rows(x={1.0: {"tpot_mean_s": math.nan, "ttft_attainment": 1.0}}, y={1.0: {"ttft_attainment": 1.0}})
    assert scores(found, "tpot")["x"] == -math.inf
    assert gain(found, "y", "x", "tpot") == Difference(50.0, 50.0, 50.0, 6)


@pytest.mark.parametrize("low", [0.0, 0.1, [0.1, 5.0, 5.0, 5.0, 5.0, 5.0]])
def test_goodput_at_its_floor_is_compared_as_a_difference(low: float | list[float]) -> None:
    """1 % of 100 requests in 10 s are 0.1 requests/s."""
    found = rows(x={8.0: {}, 64.0: {}}, y={8.0: {}, 64.0: {"goodput_per_s": low}})
    mean = 10.0 - sum(low) / 6 if isinstance(low, list) else 10.0 - low
    over_all = gain(found, "x", "y", "goodput")
    assert isinstance(over_all, Difference) and over_all.difference == pytest.approx(mean / 2)
    assert gain(found, "y", "x", "goodput")[0] == pytest.approx(-mean / 2)
    assert isinstance(gain(found[found["load"] == 8.0], "x", "y", "goodput"), Ratio)
    assert isinstance(gain(found, "x", "y", "throughput"), Ratio)


def test_a_gain_is_read_from_a_row_of_both_forms() -> None:
    for found in (Ratio(1.5, 1.4, 1.6, 6), Difference(-2.0, -3.0, -1.0, 6)):
        assert gain_of({"ratio": math.nan, "difference": math.nan} | found._asdict()) == found


def test_every_objective_says_what_it_is() -> None:
    assert all(key == metric.key and metric.title and metric.unit for key, metric in METRICS.items())


def test_the_floor_of_goodput_is_one_percent_of_the_requests() -> None:
    none = rows(x={1.0: {"goodput_per_s": 0.0}})
    assert score_figure(scores(none, "goodput")["x"]) == pytest.approx(0.01 * 100 / 10.0)
