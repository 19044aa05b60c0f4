"""What tuning is worth on packaged scenarios: knees of open loops, and throughput of closed ones with its rows."""

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
# Replications of a knee, which takes several runs each, as a share of those of a closed loop.
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
    """Tunes every scenario of the benchmark twice, as an open loop for goodput and as a closed one for throughput.

    Returns:
        ``knee`` (:func:`dspark_tuning.measuring.bench.knee.run`) and ``closed`` (:func:`summary`) of
        the packaged default, and under ``scenarios`` the same of the others.
    """
    options = Options(folder, trials=trials, replications=replications, seed=seed)
    found = {}
    for name in (DEFAULT, *OTHERS):
        scenario = load(name)
        opened = options._replace(folder=folder / name / "knee", replications=max(6, round(KNEE_SHARE * replications)))
        found[name] = {
            "knee": knee.run(scenario, opened, executor, progress),
            "closed": summary(tune(scenario, options._replace(folder=folder / name / "closed"), executor, progress)),
        }
    return found[DEFAULT] | {"scenarios": {name: found[name] for name in OTHERS}}


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
