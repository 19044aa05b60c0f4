"""Gain of tuning in an open loop: the knee of every arm, and goodput around the knee of the winner."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_simulator.scenario import Scenario, seeds
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import gained_difference, ratio, t_interval
from dspark_tuning.search.evaluation import evaluate, grid
from dspark_tuning.search.knee import WINDOW, KneeSearch, at_rate, capacity_per_s, knee, knees
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import Options, Stage, choose

# Rates of the search, as factors of the knee of the candidate without search.
SEARCHED = (0.8, 1.0, 1.25, 1.6)
# A run of the search is half as long as one that measures a knee.
SEARCH_WINDOW = WINDOW / 2
# Rates at which goodput is compared, as factors of the knee of the winner.
AROUND = (0.8, 1.0, 1.2)
# Baselines by key of the comparison.
VERSUS = {
    "vs_no_spec": baselines.PLAIN,
    "vs_defaults": baselines.DEFAULT,
    "vs_whole_blocks_own_flags": baselines.OWN_FLAGS,
    "vs_argmax_default_flags": baselines.ALIGNED_DEFAULT_FLAGS,
    "vs_argmax_same_flags": baselines.ALIGNED,
    "vs_argmax_own_flags": baselines.ALIGNED_OWN_FLAGS,
    "vs_start": baselines.START,
}


def run(
    scenario: Scenario,
    options: Options,
    executor: Executor | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> dict[str, Any]:
    """Tune the requests of a scenario as an open loop for goodput, and measure the knee of every arm.

    The knee of the winner is compared with that of each arm by a ratio, NaN if either has no knee on some seed, and
    goodput by a difference, each with its 95 % interval over paired replications.
    """
    space = Space(scenario, {})
    start = space.arm(baselines.START, space.start())
    guess = KneeSearch(start, seeds("search", options.seed, 1)[0], capacity_per_s(scenario))
    rate_per_s = knee(scenario, guess) or guess.guess_per_s
    opened = at_rate(scenario, rate_per_s, SEARCH_WINDOW).model_copy(update={"loads": SEARCHED})
    chosen = choose(opened, options._replace(objective="goodput"), executor, progress)
    winner = chosen.winner
    named = {arm.name: arm for arm in chosen.compared}
    compared = [named[name] for name in dict.fromkeys((*VERSUS.values(), winner.name))]

    report = seeds("report", options.seed, options.replications)
    progress(Stage("knee", len(compared) * len(report), 0))
    rates = knees(
        opened, compared, report, executor, lambda done: progress(Stage("knee", len(compared) * len(report), done))
    )
    by_arm = {str(name): part["rate_per_s"].to_numpy() for name, part in rates.groupby("arm")}
    at_winner = float(by_arm[winner.name].mean())
    return {
        "winner": winner.name,
        "policy": None if winner.policy is None else winner.policy.model_dump(mode="json"),
        "server": winner.server.model_dump(mode="json"),
        "rows": [{"arm": arm.name, **_mean(by_arm[arm.name], "rate_per_s")} for arm in compared],
        **{key: _ratio(by_arm[winner.name], by_arm[name]) for key, name in VERSUS.items()},
        "goodput": [] if at_winner == 0 else _goodput(opened, compared, winner, at_winner, report, executor, progress),
    }


def _goodput(
    scenario: Scenario,
    compared: list[Arm],
    winner: Arm,
    knee_per_s: float,
    report: list[int],
    executor: Executor | None,
    progress: Callable[[Stage], None],
) -> list[dict[str, Any]]:
    cells = grid(compared, AROUND, report)
    progress(Stage("goodput", len(cells), 0))
    rows = evaluate(
        at_rate(scenario, knee_per_s), cells, executor, lambda done: progress(Stage("goodput", len(cells), done))
    )
    return [
        {
            "of_knee": factor,
            "rate_per_s": factor * knee_per_s,
            "rows": [_beside(rows[rows["load"] == factor], arm.name, winner.name) for arm in compared],
        }
        for factor in AROUND
    ]


def _beside(rows: pd.DataFrame, arm: str, winner: str) -> dict[str, Any]:
    own = rows[rows["arm"] == arm]
    more = gained_difference(rows, winner, arm, "goodput")
    return {
        "arm": arm,
        "goodput_per_s": float(own["goodput_per_s"].mean()),
        "attainment": float(own["attainment"].mean()),
        "difference": more.difference,
        "low": more.low,
        "high": more.high,
    }


def _mean(values: NDArray[np.float64], name: str) -> dict[str, float]:
    centre, margin = t_interval(values)
    return {name: centre, "low": centre - margin, "high": centre + margin}


def _ratio(values: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, float]:
    if min(values.min(), others.min()) == 0:
        return {"ratio": np.nan, "low": np.nan, "high": np.nan}
    interval = ratio(np.log(values / others))
    return {"ratio": interval.ratio, "low": interval.low, "high": interval.high}
