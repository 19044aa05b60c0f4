"""Plan: the fewest replicas of every choice in each serving mode, and the effects of what-if changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import groupby
from typing import Any, Final, NamedTuple

from dspark_simulator.scenario import Run, Scenario, seeds
from dspark_simulator.simulation import Arm
from dspark_simulator.workloads import Workload
from dspark_simulator.workloads.arrivals import Closed
from dspark_tuning.planning import tuned
from dspark_tuning.planning.attainment import REPLICATIONS, Attained, attain, measure
from dspark_tuning.planning.bound import Bound, bound
from dspark_tuning.planning.capacity import Sized, replicas_for, size
from dspark_tuning.planning.comparison_run import VERIFY_ALL, Proof, prove, verify_all
from dspark_tuning.planning.deployments import Deployment, deployment, one_token
from dspark_tuning.planning.frontier import Point, frontier
from dspark_tuning.planning.question import Question
from dspark_tuning.planning.what_if import Change
from dspark_tuning.search import baselines
from dspark_tuning.search.baselines import PLAIN, TUNED
from dspark_tuning.search.tune import Stage
from sglang_dspark.errors import InputError

STAGE: Final = "plan"
SERVING_MODES: Final = 4
ONE_TOKEN: Final = "MTP-1"
ALONE_REQUESTS: Final = 60

Progress = Callable[[Stage], None]


class Plan(NamedTuple):
    """One serving mode on one choice.

    Attributes:
        serving: ``tuned``, ``verify all``, ``MTP-1`` or ``no speculation``.
        sized: Capacity of a replica and the fewest replicas; None if no rate meets the service levels.
        cost: Price per million output tokens, in the currency of the prices.
    """

    hardware: str
    serving: str
    scenario: Scenario
    arm: Arm
    price_per_gpu_hour: float
    sized: Sized | None
    bound: Bound | None

    @property
    def attained(self) -> Attained | None:
        """Attainment of the fewest replicas; None if no number up to the limit meets the service levels."""
        return None if self.sized is None else self.sized.attained

    @property
    def gpus(self) -> int | None:
        """GPUs of the fewest replicas."""
        return None if self.attained is None else self.attained.replicas * self.scenario.gpus

    @property
    def cost(self) -> float | None:
        """Price per million output tokens."""
        if self.attained is None or self.gpus is None:
            return None
        return self.gpus * self.price_per_gpu_hour / 3600.0 / self.attained.figures["throughput_tok_s"] * 1e6


class Effect(NamedTuple):
    """Effect of a change on the chosen plan.

    Attributes:
        lost: Replicas that the change removes.
        left: Remaining replicas.
        kept: Attainment of the remaining replicas under the change; None if none remains.
        sized: Capacity and fewest replicas under the change with a policy tuned again; those of the plan if replicas
            are lost.
        bound: Bottleneck of the remaining replicas.
    """

    text: str
    lost: int
    left: int
    kept: Attained | None
    sized: Sized | None
    gpus: int | None
    more_gpus: int | None
    bound: Bound | None


class Planned(NamedTuple):
    """Answer to a question.

    Attributes:
        plans: Plans of every choice and serving mode, in the order of the question.
        chosen: The cheapest tuned plan; None if none meets the service levels.
        points: Throughput and speed of the chosen deployment by serving mode.
        proof: Comparison of the chosen plan with other serving modes on the same number of replicas.
    """

    question: Question
    plans: tuple[Plan, ...]
    chosen: Plan | None
    effects: tuple[Effect, ...]
    points: tuple[Point, ...]
    proof: Proof | None
    seconds: float


def choices(planned: Planned) -> list[tuple[str, Scenario, float]]:
    """Hardware, scenario and price of each choice."""
    listed = [(plan.hardware, plan.scenario, plan.price_per_gpu_hour) for plan in planned.plans]
    return [next(same) for _, same in groupby(listed, key=lambda one: one[0])]


def plan(
    question: Question,
    changes: tuple[Change, ...] = (),
    *,
    trials: int = tuned.TRIALS,
    seed: int = 0,
    pool: Executor | None = None,
    progress: Progress = lambda stage: None,
) -> Planned:
    """Plan the deployments of ``question`` and the effects of ``changes``.

    Raises:
        InputError: An unusable choice, a change that does not apply, or service levels that no choice can meet.
    """
    started = time.perf_counter()
    deployed = [deployment(question, choice) for choice in question.choices]
    work = _Work(question, trials, seed, pool)
    _check_possible(question, deployed, work)
    plans: list[Plan] = []
    total = stages(question, changes)
    for one in deployed:
        for one_plan in work.serving_modes(one):
            plans.append(one_plan)
            progress(Stage(STAGE, total, 1))
    met = [each for each in plans if each.serving == TUNED and each.cost is not None]
    chosen = min(met, key=lambda each: each.cost or 0.0, default=None)
    if chosen is None or chosen.attained is None:
        return Planned(question, tuple(plans), None, (), (), None, time.perf_counter() - started)
    effects = []
    for change in changes:
        effects.append(work.effect(chosen, change))
        progress(Stage(STAGE, total, 1))
    modes = {
        each.serving: (each.scenario, each.arm)
        for each in plans
        if each.hardware == chosen.hardware and each.serving != VERIFY_ALL
    }
    points = frontier(modes, seed, pool)
    proof = prove(chosen.scenario, chosen.attained.replicas, chosen.arm, work.seeds, pool)
    progress(Stage(STAGE, total, 1))
    return Planned(question, tuple(plans), chosen, tuple(effects), tuple(points), proof, time.perf_counter() - started)


def stages(question: Question, changes: tuple[Change, ...]) -> int:
    """Number of progress reports of a plan: one per serving mode and change, and one for the comparison."""
    return SERVING_MODES * len(question.choices) + len(changes) + 1


class _Work:
    """Sizing of serving modes and changes, with the seeds and the executor that they share."""

    def __init__(self, question: Question, trials: int, seed: int, pool: Executor | None) -> None:
        self.question, self.trials, self.seed, self.pool = question, trials, seed, pool
        self.seeds = seeds("report", seed, REPLICATIONS)

    def attain(self, scenario: Scenario, arm: Arm, replicas: int) -> Attained:
        """SLO attainment of ``replicas``."""
        return attain(self.question, scenario, arm, replicas, self.seeds, self.pool)

    def size(self, scenario: Scenario, arm: Arm, guess_per_s: float) -> Sized | None:
        """Capacity of a replica and the fewest replicas; None if no rate meets the service levels."""
        rate_per_s = scenario.workload.rate_per_s
        # A replica is not simulated far beyond what its KV pool could hold.
        guess_per_s = min(guess_per_s, (arm.server.gamma + 1) * scenario.largest_batch() / scenario.residence_s())

        def attain(per_s: float) -> Attained:
            replicas = min(replicas_for(rate_per_s, per_s), self.question.most_replicas)
            return self.attain(scenario.with_workload(scenario.workload.with_rate(replicas * per_s)), arm, replicas)

        return size(rate_per_s, self.question.attainment, attain, guess_per_s, self.question.most_replicas)

    def serving_modes(self, one: Deployment) -> list[Plan]:
        """Plans of a deployment by serving mode, the tuned one first."""
        scenario = one.scenario
        whole = verify_all(scenario)
        base = self.size(scenario, whole, scenario.workload.rate_per_s)
        best, sized = self.tuned(scenario, base)
        plans = [self._plan(one, TUNED, scenario, best, sized), self._plan(one, VERIFY_ALL, scenario, whole, base)]
        guess_per_s = sized.capacity.low if sized else scenario.workload.rate_per_s
        single = one_token(one)
        if single is not None:
            arm = verify_all(single)
            plans.append(self._plan(one, ONE_TOKEN, single, arm, self.size(single, arm, guess_per_s)))
        plain = baselines.plain(scenario)
        plans.append(self._plan(one, PLAIN, scenario, plain, self.size(scenario, plain, guess_per_s)))
        return plans

    def tuned(self, scenario: Scenario, base: Sized | None) -> tuple[Arm, Sized | None]:
        """The tuned arm and its capacity; ``base`` is the capacity of verifying every draft.

        Tuned at the capacity of verifying every draft, and once more if the resulting plan has another load.
        """
        rivals = [verify_all(scenario), baselines.plain(scenario)]
        at = _load(scenario, base)
        arm = tuned.tuned(scenario, at, rivals, self.trials, self.seed, self.pool)
        sized = self.size(scenario, arm, base.capacity.low if base else at)
        load = _load(scenario, sized)
        if sized is not None and tuned.band(load) != tuned.band(at):
            other = tuned.tuned(scenario, load, rivals, self.trials, self.seed, self.pool)
            again = self.size(scenario, other, sized.capacity.low)
            if again is not None and again.capacity.low > sized.capacity.low:
                return other, again
        return arm, sized

    def effect(self, chosen: Plan, change: Change) -> Effect:
        """Effect of a change on the chosen plan."""
        scenario = change.apply(chosen.scenario)
        assert chosen.sized is not None and chosen.attained is not None and chosen.gpus is not None
        left = max(0, chosen.attained.replicas - change.lost)
        arm = chosen.arm
        limit = scenario.server.capture_requests
        if limit != chosen.scenario.server.capture_requests:
            arm = arm._replace(server=arm.server.model_copy(update={"capture_requests": limit}))
        kept = self.attain(scenario, arm, left) if left else None
        why = bound(scenario, arm, kept) if kept else None
        if change.lost:
            # The plan remains the required size: lost replicas must be replaced.
            lost = (chosen.attained.replicas - left) * scenario.gpus
            return Effect(change.text, change.lost, left, kept, chosen.sized, chosen.gpus, lost, why)
        base = self.size(scenario, verify_all(scenario), chosen.sized.capacity.low)
        _, sized = self.tuned(scenario, base)
        gpus = None if sized is None or sized.attained is None else sized.attained.replicas * scenario.gpus
        more = None if gpus is None else gpus - chosen.gpus
        return Effect(change.text, change.lost, left, kept, sized, gpus, more, why)

    def _plan(self, one: Deployment, serving: str, scenario: Scenario, arm: Arm, sized: Sized | None) -> Plan:
        why = None if sized is None or sized.attained is None else bound(scenario, arm, sized.attained)
        return Plan(one.name, serving, scenario, arm, one.price_per_gpu_hour, sized, why)


def _load(scenario: Scenario, sized: Sized | None) -> float:
    """Requests/s per replica of the fewest replicas; the whole traffic if none meets the service levels."""
    rate_per_s = scenario.workload.rate_per_s
    return rate_per_s if sized is None else rate_per_s / replicas_for(rate_per_s, sized.capacity.low)


def _check_possible(question: Question, deployed: list[Deployment], work: _Work) -> None:
    """Raise an InputError for service levels that not even a lone request on any choice meets in any serving mode."""
    best: dict[tuple[str, str], float] = {}
    for one in deployed:
        for arm in (verify_all(one.scenario), baselines.plain(one.scenario)):
            for klass in one.scenario.workload.classes:
                row = _alone(one.scenario, klass.name, arm, work.seeds[0])
                if row["within"].get(klass.name, 0.0) >= question.attainment:
                    best.pop((klass.name, "ttft_s"), None)
                    best[klass.name, "met"] = 0.0
                for field in ("ttft_s", "tpot_s"):
                    name = (klass.name, field)
                    best[name] = min(best.get(name, float("inf")), row[f"{field[:4]}_p99_s"])
    for klass in question.workload.classes:
        if (klass.name, "met") in best:
            continue
        if math.isinf(best[klass.name, "ttft_s"]):
            raise InputError(
                f"{question.name}: workload.classes.{klass.name}: none of its requests is served, even "
                "alone on a replica of any choice: no KV pool holds one; shorten the prompts, or choose more memory"
            )
        for field in ("ttft_s", "tpot_s"):
            goal, least = getattr(klass.slo, field), best[klass.name, field]
            if goal < least < math.inf:
                raise InputError(
                    f"{question.name}: workload.classes.{klass.name}.slo.{field}: {goal:g} cannot be met at any size: "
                    f"alone on the fastest choice 99 % of requests take {least:.3g} s, {least / goal:.1f} times as "
                    f"long; give {least:.2g} or more"
                )


def _alone(scenario: Scenario, klass: str, arm: Arm, seed: int) -> dict[str, Any]:
    """Serve one request at a time, of one class, with every shared prefix cached: the fastest case."""
    classes = (one for one in scenario.workload.with_own_lengths() if one.name == klass)
    warm = tuple(one.model_copy(update={"prefixes": 0}) for one in classes)
    workload = Workload(arrivals=Closed(clients=1), classes=warm)
    run = Run(requests=ALONE_REQUESTS, warmup_requests=1, drain=True)
    alone = scenario.model_copy(update={"workload": workload, "run": run})
    return measure(alone, arm, seed, scenario.live.draw(seed))
