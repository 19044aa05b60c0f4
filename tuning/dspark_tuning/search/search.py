"""Deterministic search with Optuna: the same seed gives the same study.

A suggestion depends on the finished batches before it, on the earlier trials of its batch and on the seed of the trial,
never on which worker finished first. An interrupted batch is suggested again from the same history and gives the same
trials. Any number of workers, and a resumed or killed run, therefore end in the same study.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from dspark_simulator.scenario import Scenario
from dspark_tuning.search.evaluation import Cell
from dspark_tuning.search.interrupts import deferred_interrupts
from dspark_tuning.search.objectives import METRICS, Objective
from dspark_tuning.search.objectives import scores as scores_of
from dspark_tuning.search.space import Params, Space
from sglang_dspark.errors import InputError

STUDY = "dspark"
JOURNAL = "journal.log"
PARAMS = "params"

Evaluate = Callable[[list[Cell]], pd.DataFrame]


class Rung(NamedTuple):
    """A rung of successive halving: length of each cell, number of seeds, and share of the batch that is promoted."""

    length: float
    seeds: int
    keep: float


RUNGS = (Rung(0.25, 1, 0.4), Rung(0.5, 2, 0.4), Rung(1.0, 4, 1.0))
# With several objectives TPE does not use pruned trials, so these are searched on the last rung alone.
FRONT_RUNGS = RUNGS[-1:]


class SearchPlan(NamedTuple):
    """Objective, length and seeds of a search.

    Attributes:
        trials: A multiple of ``batch``.
        batch: Batch size of the search.
        seeds: Seeds of requests and truths, shared by all trials.
    """

    objective: Objective
    trials: int
    batch: int
    seed: int
    seeds: list[int]


def rungs_of(objective: Objective) -> tuple[Rung, ...]:
    """Rungs of a search for an objective."""
    return FRONT_RUNGS if METRICS[objective].parts else RUNGS


def open_study(storage: str | None, folder: Path, plan: SearchPlan, scenario: Scenario, space: Space) -> optuna.Study:
    """Create or resume the study in ``storage``: an Optuna URL, or None for a journal file in ``folder``.

    Raises:
        InputError: The storage cannot be opened, or holds a different search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=STUDY,
            storage=storage if storage is not None else _journal(folder),
            directions=_directions(plan.objective),
            load_if_exists=True,
        )
    except Exception as error:  # Optuna's backends each raise their own.
        raise InputError(f"storage: {storage or folder}: cannot be opened ({_first_line(error)})") from error
    fingerprint = _fingerprint(plan, scenario, space)
    stored = study.user_attrs.get("asked")
    if stored is None:
        study.set_user_attr("asked", fingerprint)
    elif stored != fingerprint:
        raise InputError(
            f"storage: {storage or folder}: holds a search for another scenario, objective, seed, batch or space; "
            "choose another folder or storage"
        )
    return study


def stored_trials(storage: str | None, folder: Path) -> int:
    """Number of trials in the study of :func:`open_study`; 0 before it exists."""
    if storage is None and not (folder / JOURNAL).exists():
        return 0
    try:
        study = optuna.load_study(study_name=STUDY, storage=storage if storage is not None else _journal(folder))
    except KeyError:
        return 0
    return len(study.get_trials(deepcopy=False))


def search(
    study: optuna.Study, plan: SearchPlan, space: Space, evaluate: Evaluate, first: Sequence[Params] = ()
) -> Iterator[list[FrozenTrial]]:
    """Run the remaining trials of a plan; yields all finished trials after every batch.

    Args:
        first: Candidates that precede the starting candidates of the space.
    """
    starts = [*first, *space.starts()][: plan.batch]
    while True:
        stored = study.get_trials(deepcopy=False)
        if len(stored) >= plan.trials:
            yield stored
            return
        past = len(stored) // plan.batch * plan.batch
        batch = _suggest(stored[:past], plan, space, starts if past == 0 else [])
        for trial in _evaluate(batch, plan, space, evaluate)[len(stored) - past :]:
            study.add_trial(trial)
        yield study.get_trials(deepcopy=False)


def finished(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that reached the last rung, best first; ties in trial order."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-sum(trial.values) / len(trial.values), trial.number))


def params_of(trial: FrozenTrial) -> Params:
    """All parameters of a candidate, including pinned ones."""
    return dict(trial.user_attrs[PARAMS])


def _suggest(
    past: list[FrozenTrial], plan: SearchPlan, space: Space, starts: Sequence[Params]
) -> list[tuple[optuna.Trial, Params]]:
    """Suggest a batch with an in-memory study that holds only the finished batches."""
    memory = optuna.create_study(directions=_directions(plan.objective))
    memory.add_trials(past)
    for start in starts:
        memory.enqueue_trial(space.searchable(start))
    batch = []
    for number in range(len(past), len(past) + plan.batch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            memory.sampler = TPESampler(
                n_startup_trials=plan.batch, multivariate=True, group=True, seed=plan.seed * 1_000_003 + number
            )
            trial = memory.ask()
            batch.append((trial, space.suggest(trial)))
    return batch


def _evaluate(
    batch: list[tuple[optuna.Trial, Params]], plan: SearchPlan, space: Space, evaluate: Evaluate
) -> list[FrozenTrial]:
    """Evaluate a batch by successive halving: each rung prunes its worse part."""
    arms = [space.arm(str(number), params) for number, (_, params) in enumerate(batch)]
    left = list(range(len(batch)))
    scores: list[dict[int, float]] = [{} for _ in batch]
    values: dict[int, list[float]] = {}
    rungs = rungs_of(plan.objective)
    for height, rung in enumerate(rungs):
        cells = [
            Cell(arms[i], load, seed, rung.length)
            for i in left
            for load in space.scenario.loads
            for seed in plan.seeds[: rung.seeds]
        ]
        rows = evaluate(cells)
        score = scores_of(rows, plan.objective)
        for i in left:
            scores[i][height] = float(score[str(i)])
        if rung == rungs[-1]:
            values = {i: _values(rows[rows["arm"] == str(i)], plan.objective) for i in left}
        ranked = sorted(left, key=lambda i: (-scores[i][height], i))
        left = sorted(ranked[: max(1, round(len(ranked) * rung.keep))])
    return [
        create_trial(
            state=TrialState.COMPLETE if i in values else TrialState.PRUNED,
            values=values.get(i),
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={PARAMS: params},
            intermediate_values=scores[i],
        )
        for i, (trial, params) in enumerate(batch)
    ]


def _values(rows: pd.DataFrame, objective: Objective) -> list[float]:
    """Objective values of one arm for the sampler."""
    return [float(scores_of(rows, part).iloc[0]) for part in _parts(objective)]


def _directions(objective: Objective) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE] * len(_parts(objective))


def _parts(objective: Objective) -> tuple[Objective, ...]:
    return METRICS[objective].parts or (objective,)


def _journal(folder: Path) -> BaseStorage:
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_Journal(str(folder / JOURNAL)))


class _Journal(JournalFileBackend):
    """Optuna's journal file with interrupts deferred during a write.

    An exception between the system calls of Optuna's file lock leaves the lock behind, so that the next run waits half
    a minute for it, or is replaced by an error of the lock.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with deferred_interrupts():
            super().append_logs(logs)


def _fingerprint(plan: SearchPlan, scenario: Scenario, space: Space) -> str:
    settings: dict[str, Any] = {
        "objective": plan.objective,
        "batch": plan.batch,
        "seed": plan.seed,
        "seeds": plan.seeds,
        "scenario": scenario.model_dump(mode="json"),
        "space": space.describe(),
    }
    return json.dumps(settings, sort_keys=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
