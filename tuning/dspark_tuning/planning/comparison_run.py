"""Comparison of a plan with other serving modes on the same number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final, NamedTuple

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.planning.attainment import share_of
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import compare
from dspark_tuning.search.evaluation import Cell, evaluate, grid
from dspark_tuning.search.traced_run import TracedCell, trace_cell

VERIFY_ALL: Final = "verify all"


class Proof(NamedTuple):
    """Comparison of a plan with other serving modes.

    Attributes:
        scenario: The simulated scenario: a replica with its share of the traffic, or all replicas (:func:`share_of`).
        versus: Gains of the plan over every arm, see :func:`dspark_tuning.search.comparison.compare`.
        seeds: Seeds of ``versus``.
        traced: A traced run of each arm on the first seed.
    """

    scenario: Scenario
    seeds: tuple[int, ...]
    versus: pd.DataFrame
    traced: tuple[TracedCell, ...]


def prove(scenario: Scenario, replicas: int, arm: Arm, seeds: Sequence[int], pool: Executor | None) -> Proof:
    """Compare ``arm`` with verifying every draft and with no speculation under the traffic of ``replicas``."""
    part, _ = share_of(scenario, replicas)
    compared = [arm, verify_all(scenario), baselines.plain(scenario)]
    rows = evaluate(part, grid(compared, part.loads, seeds), pool)
    traced = tuple(trace_cell(part, Cell(one, part.loads[0], seeds[0])) for one in compared)
    return Proof(part, tuple(seeds), compare(rows, arm.name, "goodput"), traced)


def verify_all(scenario: Scenario) -> Arm:
    """DSPARK without a schedule: whole blocks are drafted and verified."""
    server = scenario.server.model_copy(update={"verify_mode": "static", "gamma": scenario.drafter_gamma})
    return Arm(VERIFY_ALL, server, stock=True)
