"""What tuning is worth on the packaged default scenario: ratios on the report set, with the rows behind them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pandas as pd

from dspark_simulator.scenario import DEFAULT, load
from dspark_tuning import arms
from dspark_tuning.compare import gain
from dspark_tuning.objectives import scores
from dspark_tuning.tune import Options, Outcome, Stage, tune

HIGH_LOAD = 128
ROW = (
    "arm",
    "load",
    "seed",
    "overhead_s",
    "slope",
    "throughput_tok_s",
    "goodput_per_s",
    "window_s",
    "requests",
    "tpot_mean_s",
    "accepted_length",
    "verify_length",
)


def run(
    folder: Path,
    trials: int,
    replications: int,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> dict[str, Any]:
    """Tunes for throughput and says how the result compares; everything that :func:`summary` returns."""
    options = Options(folder, trials=trials, replications=replications, seed=seed)
    return summary(tune(load(DEFAULT), options, executor, progress))


def summary(outcome: Outcome) -> dict[str, Any]:
    """Ratios of the winner, each with its 95 % interval over paired replications.

    ``vs_*`` are of throughput, over all loads; each holds the same ``by_load`` and for ``goodput``. ``vs_default`` has
    ``high_load`` too, the loads from 128 on. ``vs_best_fixed_by_load`` is the worst load's ratio to the fixed gamma
    that is best at that load on these very rows, a choice that no server could make beforehand.
    """
    winner, rows = outcome.winner.name, outcome.rows

    def versus(arm: str, part: pd.DataFrame = rows) -> dict[str, Any]:
        found = {metric: _ratio(part, winner, arm, metric) for metric in ("throughput", "goodput")}
        by_load = [
            {"load": at, **_ratio(cells, winner, arm, "throughput")} for at, cells in part.groupby("load", sort=True)
        ]
        return {**found["throughput"], "goodput": found["goodput"], "by_load": by_load}

    plain = versus(arms.PLAIN)
    return {
        "winner": winner,
        "vs_argmax_same_flags": versus(arms.ALIGNED),
        "vs_argmax_default_flags": versus(arms.ALIGNED_DEFAULT_FLAGS),
        "vs_default": versus(arms.DEFAULT)
        | {"high_load": _ratio(rows[rows["load"] >= HIGH_LOAD], winner, arms.DEFAULT, "throughput")},
        "vs_best_fixed_by_load": _best_fixed(rows, winner, outcome.scenario.drafter_gamma),
        "worst_vs_no_spec": min((row["ratio"] for row in plain["by_load"]), default=math.nan),
        "vs_no_spec": plain,
        "advice": outcome.artifact.advice,
        "policy": outcome.artifact.policy.model_dump(mode="json"),
        "server_flags": outcome.artifact.server_flags,
        "rows": rows[list(ROW)].to_dict("records"),
    }


def _best_fixed(rows: pd.DataFrame, winner: str, gamma: int) -> dict[str, Any]:
    names = [arms.fixed_name(drafts) for drafts in range(1, gamma + 1)]
    by_load = []
    for at, cells in rows.groupby("load", sort=True):
        score = scores(cells, "throughput")
        best = max(names, key=lambda name: float(score[name]))
        by_load.append({"load": at, "arm": best, **_ratio(cells, winner, best, "throughput")})
    return {**min(by_load, key=lambda row: row["ratio"]), "by_load": by_load}


def _ratio(rows: pd.DataFrame, winner: str, arm: str, metric: str) -> dict[str, Any]:
    return gain(rows, winner, arm, metric)._asdict()
