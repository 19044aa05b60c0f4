"""Tune a scenario: search, selection and report on disjoint seeds, with every baseline as evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from optuna.trial import FrozenTrial

from dspark_simulator.scenario import Scenario, seeds
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.artifact import Searched, advise, artifact_of
from dspark_tuning.search.comparison import LEAST_REPLICATIONS, compare, gained_ratio
from dspark_tuning.search.evaluation import Cell, evaluate, grid
from dspark_tuning.search.objectives import METRICS, REQUIRED_ATTAINMENT, Objective, scores, ttft_attainment
from dspark_tuning.search.search import RUNGS, SearchPlan, finished, open_study, params_of, search
from dspark_tuning.search.space import Space
from dspark_tuning.search.traced_run import TracedCell, sample_loads, trace_cell
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Argmax
from sglang_dspark.policy.artifact import Artifact

FINALISTS = 6
# Length of the cells that score the flags of a baseline.
BASELINE_LENGTH = 0.5


class Options(NamedTuple):
    """Settings of a tuning.

    Attributes:
        trials: Candidates of the search, rounded up to whole batches.
        replications: Seeds of the report set; the select set has half as many.
        storage: Optuna storage URL; None keeps a journal in ``folder``.
        pins: Fixed values of parameters that are not searched.
    """

    folder: Path
    objective: Objective = "throughput"
    trials: int = 320
    batch: int = 16
    replications: int = 20
    seed: int = 0
    storage: str | None = None
    pins: Mapping[str, Any] = {}


class Outcome(NamedTuple):
    """Result of a tuning.

    Attributes:
        server: The tuned flags, shared by baselines "with tuned flags".
        winner: The arm in the artifact; a baseline if no candidate beat them all.
        trials: One row per trial: number, state, scores by rung, parameters.
        rows: The report set, one row per cell (arm, load, seed) with its truth and all figures.
        versus: Gains of the winner over every arm, see :func:`dspark_tuning.search.comparison.compare`.
        stock: The best arm that an unmodified SGLang can serve: flags, and a belief that is its cost table.
        traced: Traced runs of the report set, grouped by load: the winner, SGLang's defaults and no speculation.
    """

    scenario: Scenario
    options: Options
    winner: Arm
    server: Server
    trials: pd.DataFrame
    rows: pd.DataFrame
    versus: pd.DataFrame
    artifact: Artifact
    stock: Arm
    traced: tuple[TracedCell, ...]


class Stage(NamedTuple):
    """Progress of a tuning: name of the stage, its simulations, and those completed since the last call."""

    name: str
    total: int
    done: int


class Selection(NamedTuple):
    """Result of search and selection.

    Attributes:
        winner: The arm to serve; a baseline if no candidate beats it significantly.
        server: The flags shared by baselines "with tuned flags".
        compared: Every baseline, the step oracle, the candidate without search, and the winner.
        stock: The best arm that an unmodified SGLang can serve with a cost table.
        short: TTFT attainment of the winner by load, where it is below what the objective requires.
        seeds: Seeds of the search set and of the select set.
    """

    winner: Arm
    server: Server
    compared: tuple[Arm, ...]
    stock: Arm
    short: dict[float, float]
    space: Space
    trials: list[FrozenTrial]
    seeds: dict[str, list[int]]


def tune(
    scenario: Scenario,
    options: Options,
    executor: Executor | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Outcome:
    """Search a policy for ``scenario`` and compare it with every baseline.

    The three stages share no seed; a seed determines the requests, the acceptances and the truth.

    Raises:
        InputError: A pin or the storage is not usable.
    """
    chosen = choose(scenario, options, executor, progress)
    winner = chosen.winner
    report = seeds("report", options.seed, options.replications)
    cells = grid(chosen.compared, scenario.loads, report)
    rows = _staged("report", scenario, cells, executor, progress)
    versus = compare(rows, winner.name, options.objective)
    searched = Searched(options.objective, len(chosen.trials), chosen.seeds | {"report": report})
    advice = advise(versus, winner.name, options.objective, chosen.short)
    artifact = artifact_of(scenario, chosen.space, winner, searched, versus, advice)
    named = {arm.name: arm for arm in chosen.compared}
    beside = {name: named[name] for name in (winner.name, baselines.DEFAULT, baselines.PLAIN)}.values()
    traced = tuple(
        trace_cell(scenario, cell) for load in sample_loads(scenario.loads) for cell in grid(beside, [load], report[:1])
    )
    trials = _table(chosen.trials)
    return Outcome(scenario, options, winner, chosen.server, trials, rows, versus, artifact, chosen.stock, traced)


def choose(
    scenario: Scenario,
    options: Options,
    executor: Executor | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Selection:
    """Search a policy and select it if it beats every baseline on seeds that the search did not use.

    Raises:
        InputError: A pin or the storage is not usable.
    """
    if options.replications < LEAST_REPLICATIONS:
        raise InputError(f"replications: {options.replications} give no interval; give at least {LEAST_REPLICATIONS}")
    space = Space(scenario, options.pins)
    plan = SearchPlan(
        options.objective,
        math.ceil(options.trials / options.batch) * options.batch,
        options.batch,
        options.seed,
        seeds("search", options.seed, RUNGS[-1].seeds),
    )
    study = open_study(options.storage, options.folder, plan, scenario, space)

    def run(stage: str, cells: list[Cell]) -> pd.DataFrame:
        return _staged(stage, scenario, cells, executor, progress)

    def scored(tried: list[Arm]) -> list[float]:
        rows = run("flags of the baselines", grid(tried, scenario.loads, plan.seeds[:1], BASELINE_LENGTH))
        by_arm = scores(rows, options.objective)
        return [float(by_arm[arm.name]) for arm in tried]

    own = baselines.with_own_flags(scenario, space.flags(), scored)
    trials = study.get_trials(deepcopy=False)
    progress(Stage("search", plan.trials, len(trials)))
    first = [space.start(arm.server) for arm in own if arm.name == baselines.ALIGNED_OWN_FLAGS]
    for stored in search(study, plan, space, lambda cells: evaluate(scenario, cells, executor), first):
        progress(Stage("search", plan.trials, len(stored) - len(trials)))
        trials = stored
    best = finished(trials)[:FINALISTS]
    finalists = [space.arm(f"finalist {trial.number}", params_of(trial)) for trial in best]
    server = finalists[0].server

    candidates = [
        baselines.static_threshold(server, theta)._replace(name=f"static {theta}") for theta in baselines.STATIC_THETAS
    ]
    score = scores(run("static threshold", grid(candidates, scenario.loads, plan.seeds[:2])), options.objective)
    theta = baselines.STATIC_THETAS[candidates.index(_best(candidates, score))]
    offered = [*own, *baselines.baselines(scenario, server, theta)]
    start = space.arm(baselines.START, space.start())
    on_stock = [baselines.on_stock(arm) for arm in (start, *finalists)]

    select = seeds("select", options.seed, max(LEAST_REPLICATIONS, options.replications // 2))
    rows = run("select", grid([*offered, *on_stock, start, *finalists], scenario.loads, select))
    with_table = [arm for arm in offered if arm.stock and arm.policy == Argmax(fill=True)]
    stock = selected(rows, options.objective, with_table, on_stock)
    winner = selected(rows, options.objective, offered, [stock], [start], finalists)
    short = _short_of_ttft(rows, winner, options.objective)
    # From here on, baselines "with tuned flags" have those of the winner.
    server = winner.server if winner.server.speculative else scenario.server
    compared = [*own, *baselines.baselines(scenario, server, theta), baselines.oracle(server), start]
    named = stock._replace(name=baselines.STOCK)
    compared.append(named)
    if winner == stock:
        winner = named
    elif winner in finalists:
        winner = winner._replace(name=baselines.TUNED)
        compared.append(winner)
    sets = {"search": plan.seeds, "select": select}
    return Selection(winner, server, tuple(compared), named, short, space, trials, sets)


def selected(rows: pd.DataFrame, objective: Objective, *groups: list[Arm]) -> Arm:
    """The best arm of the first group, or of a later group if it beats the arm it replaces significantly.

    Later groups need more to be served: a cost table, or a searched policy. Significant is a paired 95 % interval of
    the ratio above 1.
    """
    score = scores(rows, objective)
    best, *challengers = (_best(group, score) for group in groups)
    for challenger in challengers:
        better = gained_ratio(rows, challenger.name, best.name, objective).low > 1
        if better and score[challenger.name] > score[best.name]:
            best = challenger
    return best


def _staged(
    stage: str,
    scenario: Scenario,
    cells: list[Cell],
    executor: Executor | None,
    progress: Callable[[Stage], None],
) -> pd.DataFrame:
    progress(Stage(stage, len(cells), 0))
    return evaluate(scenario, cells, executor, lambda done: progress(Stage(stage, len(cells), done)))


def _best(candidates: list[Arm], score: pd.Series) -> Arm:
    return max(candidates, key=lambda arm: float(score[arm.name]))


def _short_of_ttft(rows: pd.DataFrame, arm: Arm, objective: Objective) -> dict[float, float]:
    """TTFT attainment of ``arm`` by load, where it is below what the objective requires."""
    if not METRICS[objective].needs_ttft:
        return {}
    shares = ttft_attainment(rows)[arm.name]
    return {float(load): float(share) for load, share in shares.items() if share < REQUIRED_ATTAINMENT}


def _table(trials: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                **{f"value_{i}": value for i, value in enumerate(trial.values or [])},
                **{f"rung_{rung}": score for rung, score in trial.intermediate_values.items()},
                **params_of(trial),
            }
            for trial in trials
        ]
    )
