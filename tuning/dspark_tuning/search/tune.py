"""The main job: search, select and report on disjoint seeds, and write down what was found with its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from optuna.trial import FrozenTrial

import dspark_tuning
from dspark_simulator.scenario import Scenario, seeds
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import LEAST_REPLICATIONS, gain, gained_ratio
from dspark_tuning.search.evaluation import Cell, evaluate, grid
from dspark_tuning.search.objectives import METRICS, REQUIRED_ATTAINMENT, Objective, figures, scores, ttft_attainment
from dspark_tuning.search.search import RUNGS, Plan, finished, open_study, params_of, search
from dspark_tuning.search.server_flags import environment, flags
from dspark_tuning.search.space import Space
from dspark_tuning.search.traced_run import Watched, shown, watch
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Argmax, Fixed, NoDraft
from sglang_dspark.policy.artifact import Artifact, EvidenceRow, Provenance

FINALISTS = 6
# Length of a cell that looks for the flags of a baseline.
BASELINE_LENGTH = 0.5
# What every arm is compared in, beside the objective.
COMPARED: tuple[Objective, ...] = ("throughput", "goodput")


class Options(NamedTuple):
    """How to tune.

    Attributes:
        trials: Candidates of the search, rounded up to whole batches.
        replications: Seeds of the report set; the select set has half as many.
        storage: Optuna storage URL; None keeps a journal in ``folder``.
        pins: Parameters that are not searched.
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
    """What tuning found.

    Attributes:
        server: The tuned flags, which baselines with tuned flags share.
        winner: The arm that is written down; a baseline where none of the candidates beat them all.
        trials: One row a trial: number, state, scores by rung, parameters.
        rows: The report set, one row a cell (arm, load, seed) with its truth and all figures.
        versus: One row an arm, load and metric: the winner's paired ratio over the arm, or its difference to it, the
            other being NaN. Load NaN is over all loads.
        stock: The best that an unmodified SGLang takes: flags, and a belief that is its cost table.
        watched: Runs of the report set looked at from within, a load's together: the winner and what it is measured by.
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
    watched: tuple[Watched, ...]


class Searched(NamedTuple):
    """What a policy was found by; ``seeds`` are those of the search, select and report sets."""

    objective: Objective
    trials: int
    seeds: dict[str, list[int]]


class Stage(NamedTuple):
    """Progress of a run: the stage's name, how many simulations it takes, and how many more are done."""

    name: str
    total: int
    done: int


class Chosen(NamedTuple):
    """What search and selection found.

    Attributes:
        winner: The arm to serve by; a baseline where no candidate beat it beyond doubt.
        server: The flags that baselines with the same flags share.
        compared: Every baseline, a reference that knows the acceptances, the start and the winner.
        stock: The best that an unmodified SGLang takes with a cost table.
        short: Share of requests within their TTFT by load, where the winner has fewer than the objective needs.
        seeds: Those of the search and of the selection.
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
    """Searches a policy for ``scenario`` and compares it with every baseline.

    The three stages never share a seed, and a seed names the requests, the acceptances and the truth.

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
    watched = tuple(
        watch(scenario, cell) for load in shown(scenario.loads) for cell in grid(beside, [load], report[:1])
    )
    trials = _table(chosen.trials)
    return Outcome(scenario, options, winner, chosen.server, trials, rows, versus, artifact, chosen.stock, watched)


def choose(
    scenario: Scenario,
    options: Options,
    executor: Executor | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Chosen:
    """Searches a policy and keeps it where it beats every baseline on seeds that the search never saw.

    Raises:
        InputError: A pin or the storage is not usable.
    """
    if options.replications < LEAST_REPLICATIONS:
        raise InputError(f"replications: {options.replications} give no interval; give at least {LEAST_REPLICATIONS}")
    space = Space(scenario, options.pins)
    plan = Plan(
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
        found = scores(rows, options.objective)
        return [float(found[arm.name]) for arm in tried]

    own = baselines.with_own_flags(scenario, space.flags(), scored)
    trials = study.get_trials(deepcopy=False)
    progress(Stage("search", plan.trials, len(trials)))
    first = [space.start(arm.server) for arm in own if arm.name == baselines.ALIGNED_OWN_FLAGS]
    for told in search(study, plan, space, lambda cells: evaluate(scenario, cells, executor), first):
        progress(Stage("search", plan.trials, len(told) - len(trials)))
        trials = told
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
    # Baselines "with the tuned flags" have the winner's from here on.
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
    return Chosen(winner, server, tuple(compared), named, short, space, trials, sets)


def selected(rows: pd.DataFrame, objective: Objective, *groups: list[Arm]) -> Arm:
    """The best arm of the first group, or that of a later one where it beats what it replaces beyond doubt.

    Later groups take more to serve by: a table, or a searched policy. Beyond doubt is a paired interval above 1.
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


def compare(rows: pd.DataFrame, winner: str, objective: Objective) -> pd.DataFrame:
    """``winner`` against every arm, by load and over all loads (load NaN): in throughput, goodput and the objective."""
    found = []
    for metric in dict.fromkeys((*COMPARED, objective)):
        for load in (*sorted(rows["load"].unique()), math.nan):
            part = rows if math.isnan(load) else rows[rows["load"] == load]
            means = figures(part, metric).groupby(part["arm"]).mean()
            for arm in rows["arm"].unique():
                over = {"ratio": math.nan, "difference": math.nan} | gain(part, winner, arm, metric)._asdict()
                found.append({"arm": arm, "load": load, "metric": metric, "mean": means[arm], **over})
    return pd.DataFrame(found)


def _best(candidates: list[Arm], score: pd.Series) -> Arm:
    return max(candidates, key=lambda arm: float(score[arm.name]))


def _short_of_ttft(rows: pd.DataFrame, arm: Arm, objective: Objective) -> dict[float, float]:
    """Share of requests within their TTFT by load, where ``arm`` has fewer than the objective needs."""
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


def artifact_of(
    scenario: Scenario, space: Space, winner: Arm, searched: Searched, versus: pd.DataFrame, advice: str
) -> Artifact:
    """``winner`` with all that an engine needs to serve by it, where it comes from, and its evidence."""
    plain = not winner.server.speculative
    gamma = winner.server.gamma
    return Artifact(
        policy=winner.policy or (NoDraft() if plain else Fixed(length=gamma)),
        serve="plain" if plain else "speculative",
        gamma=gamma,
        classes=tuple(space.classes),
        sts_temperatures=scenario.drafter().sts[:gamma],
        cost_belief=winner.belief or space.beliefs[winner.server.gamma],
        server_flags={} if plain else flags(winner.server),
        environment={} if plain else environment(winner.server),
        advice=advice,
        provenance=Provenance(
            scenario=scenario.name,
            hardware=scenario.hardware,
            model=scenario.model,
            engine=scenario.server.engine,
            workload=scenario.workload.arrivals.model_dump(mode="json"),
            slo={klass.name: klass.slo.model_dump() for klass in scenario.workload.classes},
            objective=searched.objective,
            simulator_version=dspark_tuning.__version__,
            truths=scenario.live.model_dump(mode="json"),
            seeds=searched.seeds,
            trials=searched.trials,
            search_space=space.describe(),
        ),
        evidence=tuple(
            EvidenceRow.model_validate({name: None if pd.isna(value) else value for name, value in row.items()})
            for row in versus.to_dict("records")
        ),
    )


def advise(versus: pd.DataFrame, winner: str, objective: Objective, short: Mapping[float, float]) -> str:
    """What to do, in one sentence, and what stands against it.

    Args:
        versus: As :func:`compare` makes it.
        short: Share of requests within their TTFT by load, where no arm gave it to enough of them.
    """
    title = METRICS[objective].title
    plain = versus[(versus["arm"] == baselines.PLAIN) & (versus["metric"] == objective)]
    over_all = plain[plain["load"].isna()].iloc[0]
    # Nothing gained is a ratio of 1 or a difference of 0.
    losing = plain[plain["load"].notna() & (plain["high"] < plain["ratio"].notna().astype(float))]
    if not versus[versus["metric"] == objective]["mean"].max() > 0:
        text = f"No way of serving has any {title} at these loads: look at the lengths, service levels and KV pool."
    elif winner == baselines.PLAIN:
        text = f"Serve without speculation: no way of drafting has the higher {title} at these loads."
    else:
        start = {
            baselines.TUNED: "Serve with DSpark and this policy",
            baselines.STOCK: "Serve an unmodified SGLang with these flags and this cost table: no policy beats them",
            baselines.DEFAULT: "Serve DSpark with SGLang's defaults: nothing that was searched beats them",
            baselines.TUNED_FLAGS: "Serve DSpark with these flags and no schedule: no policy beats it",
            baselines.OWN_FLAGS: "Serve DSpark with these flags and no schedule: no policy beats it",
            baselines.ALIGNED_OWN_FLAGS: "Serve SGLang's planner with its table and these flags: no policy beats it",
            baselines.START: "Serve with argmax corrected by the mean live overhead: no search finds better",
        }.get(winner, f"Serve with '{winner}': nothing that was searched beats this baseline")
        text = f"{start}; over all loads its {title} is {_over_plain(over_all)} serving without speculation"
        if len(losing):
            loads = ", ".join(f"{load:g}" for load in losing["load"])
            text += f", but at load {loads} serving without speculation has the higher {title}"
        text += "."
    if short:
        shares = ", ".join(f"{share:.0%} at load {load:g}" for load, share in short.items())
        text += (
            f" No arm gives {REQUIRED_ATTAINMENT:.0%} of the requests their TTFT at every load; this one comes "
            f"nearest, with {shares}."
        )
    return text


def _over_plain(row: pd.Series) -> str:
    if math.isfinite(row["ratio"]):
        return f"{row['ratio']:.2f} times that of"
    more = "above" if row["difference"] >= 0 else "below"
    return f"{abs(row['difference']):.2f}/s {more} that of"
