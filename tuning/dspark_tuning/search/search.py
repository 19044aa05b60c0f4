"""The search itself: batches of trials, asked and told in trial order, so that the same seed gives the same study.

A trial's suggestion depends on the finished batches before it, on the trials asked before it in its own batch and on a
seed of its own, and never on which worker was faster. A batch that was cut short is asked again from the same past and
gives the same trials. Hence any number of workers, a resumed run and a killed one end in the same study.
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
from dspark_tuning.search.objectives import Objective
from dspark_tuning.search.objectives import scores as scores_of
from dspark_tuning.search.space import Params, Space
from sglang_dspark.errors import InputError

STUDY = "dspark"
JOURNAL = "journal.log"
PARAMS = "params"

Evaluate = Callable[[list[Cell]], pd.DataFrame]


class Rung(NamedTuple):
    """One height of the ladder: how long each cell runs, on how many seeds, and which share of the batch goes on."""

    length: float
    seeds: int
    keep: float


RUNGS = (Rung(0.25, 1, 0.4), Rung(0.5, 2, 0.4), Rung(1.0, 4, 1.0))
# TPE learns nothing of two objectives from pruned trials, so the front is searched on the last rung alone.
FRONT_RUNGS = RUNGS[-1:]


class Plan(NamedTuple):
    """A search: what, how long, from which seed.

    Attributes:
        trials: Rounded up to whole batches.
        batch: Trials that are asked before any of them is told.
        seeds: Seeds of requests and truths, one list for all trials.
    """

    objective: Objective
    trials: int
    batch: int
    seed: int
    seeds: list[int]


def open_study(storage: str | None, folder: Path, plan: Plan, scenario: Scenario, space: Space) -> optuna.Study:
    """Creates or continues the study in ``storage``: an Optuna URL, or None for a journal file in ``folder``.

    Raises:
        InputError: The storage cannot be opened, or holds a search that asked something else.
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
    asked = _fingerprint(plan, scenario, space)
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", asked)
    elif known != asked:
        raise InputError(
            f"storage: {storage or folder}: holds a search for another scenario, objective, seed, batch or space; "
            "choose another folder or storage"
        )
    return study


def stored_trials(storage: str | None, folder: Path) -> int:
    """Number of trials in the study that :func:`open_study` opens with the same arguments; 0 before it exists."""
    if storage is None and not (folder / JOURNAL).exists():
        return 0
    try:
        study = optuna.load_study(study_name=STUDY, storage=storage if storage is not None else _journal(folder))
    except KeyError:
        return 0
    return len(study.get_trials(deepcopy=False))


def search(
    study: optuna.Study, plan: Plan, space: Space, evaluate: Evaluate, first: Sequence[Params] = ()
) -> Iterator[list[FrozenTrial]]:
    """Runs what is left of a plan; yields all finished trials after every batch.

    Args:
        first: Candidates to look at before those of the space.
    """
    starts = [*first, *space.starts()][: plan.batch]
    while True:
        stored = study.get_trials(deepcopy=False)
        if len(stored) >= plan.trials:
            yield stored
            return
        past = len(stored) // plan.batch * plan.batch
        asked = _ask(stored[:past], plan, space, starts if past == 0 else [])
        told = _climb(asked, plan, space, evaluate)
        for trial in told[len(stored) - past :]:
            study.add_trial(trial)
        yield study.get_trials(deepcopy=False)


def finished(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that reached the last rung, the best first; equal ones in trial order."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-sum(trial.values) / len(trial.values), trial.number))


def params_of(trial: FrozenTrial) -> Params:
    """All parameters of a candidate, pinned ones included."""
    return dict(trial.user_attrs[PARAMS])


def _ask(
    past: list[FrozenTrial], plan: Plan, space: Space, starts: Sequence[Params]
) -> list[tuple[optuna.Trial, Params]]:
    """Asks a batch of a study in memory that knows the finished batches and nothing else."""
    memory = optuna.create_study(directions=_directions(plan.objective))
    memory.add_trials(past)
    for start in starts:
        memory.enqueue_trial(space.searchable(start))
    asked = []
    for number in range(len(past), len(past) + plan.batch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            memory.sampler = TPESampler(
                n_startup_trials=plan.batch, multivariate=True, group=True, seed=plan.seed * 1_000_003 + number
            )
            trial = memory.ask()
            asked.append((trial, space.suggest(trial)))
    return asked


def _climb(asked: list[tuple[optuna.Trial, Params]], plan: Plan, space: Space, evaluate: Evaluate) -> list[FrozenTrial]:
    """Takes a batch up the rungs; the worse part of it stays behind on each (successive halving)."""
    arms = [space.arm(str(number), params) for number, (_, params) in enumerate(asked)]
    left = list(range(len(asked)))
    scores: list[dict[int, float]] = [{} for _ in asked]
    values: dict[int, list[float]] = {}
    rungs = FRONT_RUNGS if plan.objective == "front" else RUNGS
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
        for i, (trial, params) in enumerate(asked)
    ]


def _values(rows: pd.DataFrame, objective: Objective) -> list[float]:
    """The values of one arm that the sampler learns from."""
    parts: tuple[Objective, ...] = ("throughput", "tpot") if objective == "front" else (objective,)
    return [float(scores_of(rows, part).iloc[0]) for part in parts]


def _directions(objective: Objective) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE] * (2 if objective == "front" else 1)


def _journal(folder: Path) -> BaseStorage:
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_Journal(str(folder / JOURNAL)))


class _Journal(JournalFileBackend):
    """Optuna's journal file; an interrupt waits for the end of a write.

    An exception that is raised between the system calls of Optuna's file lock leaves the lock behind, so that the next
    run waits half a minute for it, or is replaced by an error of the lock's own.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with deferred_interrupts():
            super().append_logs(logs)


def _fingerprint(plan: Plan, scenario: Scenario, space: Space) -> str:
    asked: dict[str, Any] = {
        "objective": plan.objective,
        "batch": plan.batch,
        "seed": plan.seed,
        "seeds": plan.seeds,
        "scenario": scenario.model_dump(mode="json"),
        "space": space.describe(),
    }
    return json.dumps(asked, sort_keys=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
