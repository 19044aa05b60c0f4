"""Whether a number of replicas meets the service levels, by simulation on several requests and truths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

import numpy as np

from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads.arrivals import Poisson, Varying
from dspark_tuning.compare import t_quantile
from dspark_tuning.plan.question import Question

REPLICATIONS: Final = 8
# So far below what is asked, two replications are enough to know.
SCREENED: Final = 2
HOPELESS: Final = 0.1
# A replica is watched for this long after it has filled, within these numbers of requests.
WATCHED_S, FILLED_S = 60.0, 20.0
MEASURED, WARMED = (400, 2400), (60, 800)


class Attained(NamedTuple):
    """What so many replicas do.

    Attributes:
        share: Of its requests, that the worst class has within both of its service levels; mean over replications.
        low, high: One-sided bounds on it at the question's confidence; NaN where it was hopeless at once.
        worst: That class.
        goodput_per_s: Requests within their service levels, all replicas.
        figures: Means over replications of one flat row of a simulation (:meth:`Result.row`), rates of all replicas.
    """

    replicas: int
    share: float
    low: float
    high: float
    worst: str
    goodput_per_s: float
    figures: dict[str, float]

    def meets(self, attainment: float) -> bool:
        return self.low >= attainment


def attain(
    question: Question, scenario: Scenario, arm: Arm, replicas: int, seeds: Sequence[int], pool: Executor | None
) -> Attained:
    """Simulates ``replicas`` under the traffic of ``scenario``."""
    part, copies = share_of(scenario, replicas)
    rows = _measure(part, arm, seeds[:SCREENED], pool)
    if _worst(rows)[1] >= question.attainment - HOPELESS:
        rows += _measure(part, arm, seeds[SCREENED:], pool)
    worst, share = _worst(rows)
    shares = np.array([row["within"][worst] for row in rows])
    margin = (
        t_quantile(question.confidence, len(rows) - 1) * float(shares.std(ddof=1)) / math.sqrt(len(rows))
        if len(rows) > SCREENED
        else math.nan
    )
    figures = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "within"}
    for rate in ("throughput_tok_s", "goodput_per_s", "goodput_tok_s"):
        figures[rate] *= copies
    return Attained(replicas, share, share - margin, share + margin, worst, figures["goodput_per_s"], figures)


def share_of(scenario: Scenario, replicas: int) -> tuple[Scenario, int]:
    """What is simulated for ``replicas``, and how many times it stands.

    Random routing splits Poisson arrivals into independent Poisson streams, so one replica at its part of the rate is
    like every other. Any other routing or arrivals need all replicas at once.
    """
    rate_per_s = scenario.workload.arrivals.mean_rate_per_s
    assert rate_per_s is not None
    alone = scenario.router == "random" and isinstance(scenario.workload.arrivals, Poisson | Varying)
    count = 1 if alone else replicas
    workload = scenario.workload.with_rate(rate_per_s / replicas) if alone else scenario.workload
    a_replica_s = rate_per_s / replicas
    run = Run(
        requests=count * (_within(a_replica_s * WATCHED_S, MEASURED) + _within(a_replica_s * FILLED_S, WARMED)),
        warmup_requests=count * _within(a_replica_s * FILLED_S, WARMED),
    )
    return scenario.model_copy(update={"workload": workload, "replicas": count, "run": run}), replicas // count


def _within(count: float, bounds: tuple[int, int]) -> int:
    return int(min(max(count, bounds[0]), bounds[1]))


def _measure(scenario: Scenario, arm: Arm, seeds: Sequence[int], pool: Executor | None) -> list[dict[str, Any]]:
    if pool is None:
        return [measure(scenario, arm, seed) for seed in seeds]
    # dask's executor asks for lengths, which ``repeat`` has not.
    count = len(seeds)
    return list(pool.map(measure, [scenario] * count, [arm] * count, seeds))


def measure(scenario: Scenario, arm: Arm, seed: int) -> dict[str, Any]:
    """One simulation: the flat row of its result, and ``within``: the share within service levels by class."""
    result = simulate(scenario, arm, seed=seed, truth=scenario.live.draw(seed))
    within = {klass.name: klass.attainment for klass in result.classes if klass.requests}
    return {**result.row(), "within": within}


def _worst(rows: list[dict[str, Any]]) -> tuple[str, float]:
    """The class with the least share, over the replications that had requests of it."""
    means = {
        name: float(np.mean([row["within"].get(name, 1.0) for row in rows]))
        for name in sorted({name for row in rows for name in row["within"]})
    }
    if not means:
        return "all", 0.0
    worst = min(means, key=lambda name: means[name])
    for row in rows:
        row["within"].setdefault(worst, 1.0)
    return worst, means[worst]
