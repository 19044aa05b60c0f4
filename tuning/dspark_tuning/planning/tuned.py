"""Tuned policy and flags of a deployment at a load, cached on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import optuna
from pydantic import BaseModel, ConfigDict, ValidationError

import dspark_tuning
from dspark_simulator.scenario import Scenario, seeds
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.planning.attainment import share_of
from dspark_tuning.planning.deployments import ROOMY
from dspark_tuning.search.artifact import Searched
from dspark_tuning.search.baselines import TUNED
from dspark_tuning.search.evaluation import evaluate, grid
from dspark_tuning.search.search import RUNGS, SearchPlan, finished, params_of, search
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import selected
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically
from sglang_dspark.policy import AnyPolicy, CostBelief

logger = logging.getLogger(__name__)

TRIALS: Final = 32
BATCH: Final = 16
FINALISTS: Final = 3
SELECT_SEEDS: Final = 4
# Policies are compared at this factor of the load: below its capacity a server attains all of its traffic.
BEYOND: Final = 1.15
# Loads within a factor of the square root of 2 share a policy.
BANDS_PER_DOUBLING: Final = 2


class CachedArm(BaseModel):
    """A tuned arm in the cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    server: Server
    policy: AnyPolicy | None
    belief: CostBelief | None
    stock: bool

    def arm(self) -> Arm:
        """The arm that was cached."""
        return Arm(TUNED, self.server, self.policy, self.belief, self.stock)


def band(rate_per_s: float) -> float:
    """Representative load of a band of similar loads, requests per second."""
    return float(2.0 ** (round(BANDS_PER_DOUBLING * math.log2(rate_per_s)) / BANDS_PER_DOUBLING))


def cache_folder() -> Path:
    """Folder of cached policies: DSPARK_PLAN_CACHE, or a folder in the cache of the user."""
    if given := os.environ.get("DSPARK_PLAN_CACHE"):
        return Path(given)
    # Path.home raises if the user has no home.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sglang-dspark" / "plans"  # noqa: PTH111


def tuned(
    scenario: Scenario, rate_per_s: float, rivals: list[Arm], trials: int, seed: int, pool: Executor | None
) -> Arm:
    """The arm with the highest goodput of a replica in the band of ``rate_per_s``, from the cache or by a search.

    Args:
        scenario: The deployment; its rate is not used.
        rivals: Baselines that a candidate must beat significantly.
    """
    at = band(rate_per_s) * BEYOND
    alone, _ = share_of(
        scenario.model_copy(update={"workload": scenario.workload.with_rate(at), "router": "random"}), 1
    )
    place = cache_folder() / f"{_key(alone, rivals, trials, seed)}.json"
    try:
        return CachedArm.model_validate_json(place.read_text(encoding="utf-8")).arm()
    except (OSError, ValidationError):
        pass
    best = _search(alone, rivals, trials, seed, pool)
    kept = CachedArm(server=best.server, policy=best.policy, belief=best.belief, stock=best.stock)
    try:
        write_atomically(place, kept.model_dump_json(indent=1) + "\n")
    except InputError as error:
        logger.warning("the tuned policy is not cached: %s, by DSPARK_PLAN_CACHE", error)
    return kept.arm()


def _key(scenario: Scenario, rivals: list[Arm], trials: int, seed: int) -> str:
    """Hash of everything that the search depends on, including the version."""
    settings = {
        "version": dspark_tuning.__version__,
        "scenario": scenario.model_dump(mode="json", exclude={"name", "description"}),
        "rivals": [arm.server.model_dump(mode="json") for arm in rivals],
        "search": [trials, BATCH, FINALISTS, SELECT_SEEDS, seed],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def space_of(scenario: Scenario) -> Space:
    """Search space of a deployment; a what-if value of ``capture_requests`` is pinned."""
    capture = scenario.server.capture_requests
    return Space(scenario, {} if capture in (0, ROOMY["capture_requests"]) else {"capture_requests": capture})


def searched(trials: int, seed: int) -> Searched:
    """Objective, trials and seeds of :func:`tuned`."""
    sets = {"search": seeds("search", seed, RUNGS[-1].seeds), "select": seeds("select", seed, SELECT_SEEDS)}
    return Searched("goodput", math.ceil(trials / BATCH) * BATCH, sets)


def _search(scenario: Scenario, rivals: list[Arm], trials: int, seed: int, pool: Executor | None) -> Arm:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, how = space_of(scenario), searched(trials, seed)
    plan = SearchPlan(how.objective, how.trials, BATCH, seed, how.seeds["search"])
    study = optuna.create_study(direction="maximize")
    trials_done = list(search(study, plan, space, lambda cells: evaluate(scenario, cells, pool)))[-1]
    candidates = [space.arm(f"finalist {t.number}", params_of(t)) for t in finished(trials_done)[:FINALISTS]]
    rows = evaluate(scenario, grid([*rivals, *candidates], scenario.loads, how.seeds["select"]), pool)
    return selected(rows, how.objective, rivals, candidates)
