"""SLO attainment of a number of replicas, simulated on several sets of requests and truths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from dspark_simulator.deployment import Truth
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Workload
from dspark_tuning.planning.question import Question
from dspark_tuning.search.comparison import t_margin

REPLICATIONS: Final = 32
# A few replications suffice for an attainment this far below the required one.
SCREENED: Final = 3
HOPELESS: Final = 0.1
# Measured time of a replica and the time before it in which it fills, each bounded by a range of requests; longer if a
# request takes longer.
MEASURED_S, WARMED_S = 60.0, 20.0
MEASURED, WARMED = (300, 800), (60, 800)


Verdict = Literal["met", "not met", "indeterminate"]


class Attained(NamedTuple):
    """SLO attainment of a number of replicas.

    Attributes:
        share: Attainment of the worst class, mean over replications.
        low, high: One-sided bounds of ``share`` at the confidence of the question; equal to it if it is hopeless.
        worst: The class with the lowest attainment.
        within: Attainment of each class.
        saturated: The backlog grew in at least half of the replications, so that ``share`` depends on their length.
        goodput_per_s: Requests within their service levels, all replicas.
        figures: Means over replications of the flat row of a simulation (:meth:`Result.row`), rates of all replicas.
    """

    replicas: int
    share: float
    low: float
    high: float
    worst: str
    within: dict[str, float]
    saturated: bool
    goodput_per_s: float
    figures: dict[str, float]

    def verdict(self, attainment: float) -> Verdict:
        """Whether the service levels are met at the confidence of the question."""
        if self.saturated or self.high < attainment:
            return "not met"
        return "met" if self.low >= attainment else "indeterminate"


def attain(
    question: Question, scenario: Scenario, arm: Arm, replicas: int, seeds: Sequence[int], pool: Executor | None
) -> Attained:
    """Simulate ``replicas`` under the traffic of ``scenario``.

    A seed determines requests and acceptances. The truths are evenly spread and independent of the seeds.
    """
    part, copies = share_of(scenario, replicas)
    truths = scenario.live.spread(len(seeds))
    rows = _measure(part, arm, seeds[:SCREENED], truths[:SCREENED], pool)
    hopeless = min(_means(rows).values()) < question.attainment - HOPELESS
    if not hopeless:
        rows += _measure(part, arm, seeds[SCREENED:], truths[SCREENED:], pool)
    within = _means(rows)
    worst = min(within, key=lambda name: within[name])
    share, margin = within[worst], 0.0
    if not hopeless:
        shares = np.array([row["within"].get(worst, 1.0) for row in rows])
        margin = t_margin(shares, question.confidence)
    figures = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "within"}
    for rate in ("throughput_tok_s", "goodput_tok_s"):
        figures[rate] *= copies
    figures["goodput_per_s"] = scenario.workload.rate_per_s * figures["attainment"]
    return Attained(
        replicas,
        share,
        share - margin,
        share + margin,
        worst,
        within,
        figures["saturated"] >= 0.5,
        figures["goodput_per_s"],
        figures,
    )


def share_of(scenario: Scenario, replicas: int) -> tuple[Scenario, int]:
    """The scenario to simulate for ``replicas``, and the number of its independent copies.

    Random routing splits Poisson arrivals into independent Poisson streams, so that one replica with its share of the
    rate represents all. Any other router or arrival process needs all replicas in one simulation.
    """
    rate_per_s = scenario.workload.rate_per_s
    alone = scenario.router == "random" and scenario.workload.arrivals.splits_at_random
    count = 1 if alone else replicas
    workload = scenario.workload.with_rate(rate_per_s / replicas) if alone else scenario.workload
    per_replica_s = rate_per_s / replicas
    life = math.ceil(per_replica_s * min(_life_s(workload), scenario.residence_s()))
    warmed = count * max(_within(per_replica_s * WARMED_S, WARMED), life)
    measured = count * max(_within(per_replica_s * MEASURED_S, MEASURED), life)
    run = Run(requests=measured + warmed, warmup_requests=warmed)
    return scenario.model_copy(update={"workload": workload, "replicas": count, "run": run}), replicas // count


def _life_s(workload: Workload) -> float:
    """Seconds that a request of the slowest class takes if it just meets its service levels."""
    requests = next(workload.chunks(seed=0))
    return max(
        klass.slo.ttft_s + klass.slo.tpot_s * float(outputs.mean())
        for n, klass in enumerate(workload.classes)
        if len(outputs := requests["output"][requests["slo_class"] == n])
    )


def _within(count: float, bounds: tuple[int, int]) -> int:
    return int(min(max(count, bounds[0]), bounds[1]))


def _measure(
    scenario: Scenario, arm: Arm, seeds: Sequence[int], truths: Sequence[Truth], pool: Executor | None
) -> list[dict[str, Any]]:
    # dask's executor needs sized iterables, so not ``itertools.repeat``.
    count = len(seeds)
    run = map if pool is None else pool.map
    return list(run(measure, [scenario] * count, [arm] * count, seeds, truths))


def measure(scenario: Scenario, arm: Arm, seed: int, truth: Truth) -> dict[str, Any]:
    """Simulate once: the flat row of the result, with the attainment of each class as ``within``."""
    result = simulate(scenario, arm, seed=seed, truth=truth)
    within = {klass.name: klass.attainment for klass in result.classes if klass.requests}
    return {**result.row(), "within": within}


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean attainment of each class; 1 in a replication without requests of the class."""
    names = sorted({name for row in rows for name in row["within"]})
    return {name: float(np.mean([row["within"].get(name, 1.0) for row in rows])) for name in names}
