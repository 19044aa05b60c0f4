"""Gain of tuning on packaged scenarios: knees of open loops, and throughput of closed loops with its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pandas as pd

from dspark_simulator.scenario import DEFAULT, load
from dspark_tuning.measuring.bench import knee
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import gain
from dspark_tuning.search.objectives import scores
from dspark_tuning.search.tune import Options, Outcome, Stage, tune

OTHERS = ("h200-qwen3-8b", "b300-v4flash-agentic")
HIGH_LOAD = 128
# Replications of a knee, each of several runs, as a share of those of a closed loop.
KNEE_SHARE = 0.6
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
    """Tune every scenario of the benchmark twice: as an open loop for goodput and as a closed loop for throughput.

    Returns:
        ``knee`` (:func:`dspark_tuning.measuring.bench.knee.run`) and ``closed`` (:func:`summary`) of
        the packaged default, and under ``scenarios`` the same of the others.
    """
    options = Options(folder, trials=trials, replications=replications, seed=seed)
    results = {}
    for name in (DEFAULT, *OTHERS):
        scenario = load(name)
        opened = options._replace(folder=folder / name / "knee", replications=max(6, round(KNEE_SHARE * replications)))
        results[name] = {
            "knee": knee.run(scenario, opened, executor, progress),
            "closed": summary(tune(scenario, options._replace(folder=folder / name / "closed"), executor, progress)),
        }
    return results[DEFAULT] | {"scenarios": {name: results[name] for name in OTHERS}}


def summary(outcome: Outcome) -> dict[str, Any]:
    """Gains of the winner, each with its 95 % interval over paired replications.

    ``vs_*`` are ratios of throughput over all loads, each also ``by_load`` and for ``goodput``; ``vs_default`` also for
    ``high_load``, the loads from 128 on. ``vs_best_fixed_by_load`` is the lowest ratio over loads to the fixed gamma
    that is best at that load on the same rows, which no server can know beforehand.
    """
    winner, rows = outcome.winner.name, outcome.rows

    def versus(arm: str, part: pd.DataFrame = rows) -> dict[str, Any]:
        gains = {metric: _ratio(part, winner, arm, metric) for metric in ("throughput", "goodput")}
        by_load = [
            {"load": at, **_ratio(cells, winner, arm, "throughput")} for at, cells in part.groupby("load", sort=True)
        ]
        return {**gains["throughput"], "goodput": gains["goodput"], "by_load": by_load}

    plain = versus(baselines.PLAIN)
    return {
        "winner": winner,
        "vs_argmax_same_flags": versus(baselines.ALIGNED),
        "vs_argmax_own_flags": versus(baselines.ALIGNED_OWN_FLAGS),
        "vs_argmax_default_flags": versus(baselines.ALIGNED_DEFAULT_FLAGS),
        "vs_start": versus(baselines.START),
        "vs_default": versus(baselines.DEFAULT)
        | {"high_load": _ratio(rows[rows["load"] >= HIGH_LOAD], winner, baselines.DEFAULT, "throughput")},
        "vs_best_fixed_by_load": _best_fixed(rows, winner, outcome.scenario.drafter_gamma),
        "worst_vs_no_spec": min((row["ratio"] for row in plain["by_load"]), default=math.nan),
        "vs_no_spec": plain,
        "advice": outcome.artifact.advice,
        "policy": outcome.artifact.policy.model_dump(mode="json"),
        "server_flags": outcome.artifact.server_flags,
        "rows": rows[list(ROW)].to_dict("records"),
    }


def _best_fixed(rows: pd.DataFrame, winner: str, gamma: int) -> dict[str, Any]:
    names = [baselines.fixed_name(drafts) for drafts in range(1, gamma + 1)]
    by_load = []
    for at, cells in rows.groupby("load", sort=True):
        score = scores(cells, "throughput")
        best = max(names, key=lambda name: float(score[name]))
        by_load.append({"load": at, "arm": best, **_ratio(cells, winner, best, "throughput")})
    return {**min(by_load, key=lambda row: row["ratio"]), "by_load": by_load}


def _ratio(rows: pd.DataFrame, winner: str, arm: str, metric: str) -> dict[str, Any]:
    return gain(rows, winner, arm, metric)._asdict()
