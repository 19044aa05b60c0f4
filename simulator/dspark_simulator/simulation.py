"""Discrete-event simulation: arrivals and replicas as SimPy processes, one event per engine step."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import simpy

from dspark_simulator.costs.numeric import COST
from dspark_simulator.deployment import Truth
from dspark_simulator.engines import ENGINES
from dspark_simulator.engines.slots import abort, enqueue
from dspark_simulator.prefixes import Prefix, Prefixes, prefix_of
from dspark_simulator.result import Result, Snapshot, summarise
from dspark_simulator.router import ROUTERS
from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.state import DECODE, METRICS, MIXED, PREFILL, QUEUED, STATE, Record, Waiting
from dspark_simulator.workloads import Request
from sglang_dspark.errors import InputError
from sglang_dspark.policy import AnyPolicy, CostBelief, Engine, NoDraft, compile_rule

FIRST_QUEUE = 4096
# A run must be as long as this many consecutive requests to have a steady state.
LIVES = 10
KINDS = {PREFILL: "prefill", DECODE: "decode", MIXED: "mixed"}


class Arm(NamedTuple):
    """Arm of a comparison: a server and the policy on it.

    Attributes:
        policy: None if the server schedules nothing (no speculation, or static mode).
        belief: Cost belief of the policy; the scenario's profile if None.
        stock: SGLang without the plugin, which drops the schedule beyond its last captured graph.
        oracle: Choose in each step the lengths with the most tokens per second, given the drafts it would accept.
    """

    name: str
    server: Server
    policy: AnyPolicy | None = None
    belief: CostBelief | None = None
    stock: bool = False
    oracle: bool = False


class StepLog(NamedTuple):
    """One step of a replica, for the step log.

    Attributes:
        running, queued, kv_tokens: At the end of the step.
        decoded: Requests with a decoding round in the step.
        verified: Drafts verified, all requests together.
    """

    replica: int
    start_s: float
    step_s: float
    kind: str
    running: int
    queued: int
    kv_tokens: int
    prefill_tokens: int
    cap: int
    tier: int
    decoded: int
    verified: int


def simulate(
    scenario: Scenario,
    arm: Arm,
    *,
    seed: int = 0,
    truth: Truth | None = None,
    log: list[StepLog] | None = None,
    totals: list[Record] | None = None,
) -> Result:
    """Simulate a scenario under an arm until its measured requests are finished.

    Requests ``warmup_requests..requests-1`` are measured; unless the run drains, arrivals continue after them, so that
    the last ones see the same load. Throughput counts the output tokens between the arrivals of the first measured
    request and of the first one after the last; if none follows, until the end of the last one.

    Args:
        seed: Determines the requests and the acceptances, the same for every arm.
        truth: Difference between live and profiled step times; the centre of the scenario's distribution if None.
        log: Receives every step.
        totals: Receives METRICS [replicas] at the end of the run, with the histograms of all latencies.
    """
    simulation = _Simulation(scenario, arm, seed, truth or scenario.live.centre(), log)
    try:
        result = simulation.run()
        if totals is not None:
            totals.append(simulation.metrics())
        simulation.check_refusals(result)
        return result
    finally:
        simulation.close()


class _Simulation:
    def __init__(self, scenario: Scenario, arm: Arm, seed: int, truth: Truth, log: list[StepLog] | None) -> None:
        self.scenario, self.arm, self.seed, self.log = scenario, arm, seed, log
        if arm.server.gamma > scenario.drafter_gamma:
            raise InputError(
                f"server: gamma: {arm.server.gamma} is beyond the drafter's block; use at most {scenario.drafter_gamma}"
            )
        self.env = simpy.Environment()
        self.first, self.last = scenario.run.warmup_requests, scenario.run.requests
        if scenario.run.drain:
            self.end = self.last
        elif scenario.workload.clients is not None:
            self.end = sys.maxsize
        else:
            # A limit on the requests after the measured ones, since the queue grows without end under overload.
            self.end = 2 * self.last - self.first
        self.requests = scenario.workload.requests(seed)
        self.sent = 0
        self.backlog: list[int] = []
        self.route = ROUTERS[scenario.router]
        self.done = self.env.event()
        gamma = arm.server.gamma
        # The oracle may draft fewer positions than the server's block.
        least = 1 if arm.oracle else gamma
        positions = range(gamma, least - 1, -1)
        # Not np.concatenate: it copies the dtype, and numba's dispatch would compare it field by field at every step.
        cost = np.empty(len(positions), COST)
        for n, drafted in enumerate(positions):
            cost[n] = scenario.live_steps(drafted, truth)[0]
        belief = arm.belief
        if belief is None and arm.policy is not None:
            belief = scenario.planner_table(gamma)
        engine = Engine(gamma, arm.server.tiers(), arm.server.captured_requests(), belief)
        classes = scenario.workload.classes
        server = arm.server.record(classes, scenario.memory.tokens(arm.server))
        server[0]["seed"] = seed
        server[0]["stock"], server[0]["oracle"] = arm.stock, arm.oracle
        server[0]["measure_from"], server[0]["measure_to"] = self.first, self.last
        self.replicas = [
            _Replica(
                self,
                index,
                server,
                compile_rule(arm.policy or NoDraft(), engine),
                cost,
                scenario.drafter().compile([klass.domain for klass in classes]),
            )
            for index in range(scenario.replicas)
        ]
        self.outstanding = [0] * scenario.replicas
        self.requests_s, self.counted_s = 0.0, 0.0
        self.opened: Snapshot | None = None
        self.closed: Snapshot | None = None

    def run(self) -> Result:
        clients = self.scenario.workload.clients
        if clients is None:
            self.env.process(self._arrivals())
        else:
            for _ in range(min(clients, self.end)):
                self.send(self.env.now)
        limit = self.env.timeout(self.scenario.run.max_s)
        self.env.run(until=self.done | limit)
        if self.opened is None:
            raise InputError(
                f"{self.scenario.name}: run.max_s: {self.scenario.run.max_s} ends within the warm-up; "
                "raise it or lower run.warmup_requests"
            )
        return summarise(
            self.scenario.workload.classes,
            self.opened,
            self.closed or self._snapshot(),
            self.metrics(),
            self.scenario.workload.class_counts(self.seed, self.first, self.last),
            self.backlog,
            self.first,
            clients is None,
            self.env.now,
            int(self.replicas[0].server[0]["kv_capacity"]),
        )

    def check_refusals(self, result: Result) -> None:
        """Reject a run whose measured requests were mostly refused.

        Refused clients of a closed loop send again at once, so any number of requests may pass while a batch is served.
        """
        clients, most = self.scenario.workload.clients, self.arm.server.max_queued_requests
        if clients is None or most is None or not result.aborted:
            return
        output = float(next(self.scenario.workload.chunks(self.seed))["output"].mean())
        life_s = result.ttft.mean_s + result.tpot.mean_s * output
        if result.window_s < LIVES * life_s:
            raise InputError(
                f"{self.scenario.name}: server.max_queued_requests: {most} refuses some of the {clients} clients of a "
                f"closed loop, who send again at once: the measured requests pass in {result.window_s:.3g} s, and one "
                f"that is served takes {life_s:.3g} s; use an open loop, or raise run.requests"
            )

    def close(self) -> None:
        """Release the arrays.

        Environment, processes and replicas form reference cycles, and many simulations per second would hold megabytes
        each until the next garbage collection.
        """
        self.opened = self.closed = None
        for replica in self.replicas:
            replica.close()

    def send(self, at_s: float, request: Request | None = None) -> None:
        """Send a request to a replica, by default the workload's next one."""
        request = next(self.requests) if request is None else request
        if self.sent == self.first:
            self.opened = self._snapshot()
        elif self.sent == self.last and self.opened is not None and self.env.now > self.opened.at_s:
            self.closed = self._snapshot()
        if self.sent < self.last:
            self.backlog.append(sum(self.outstanding))
        self._count()
        prefix = prefix_of(self.scenario.workload, request, self.seed)
        holders = self._holders(prefix) if prefix else []
        replica = self.route(self.seed, self.sent, self.outstanding, holders)
        self.outstanding[replica] += 1
        self.sent += 1
        self.replicas[replica].enqueue(request, at_s, prefix)

    def _holders(self, prefix: Prefix) -> list[int]:
        """The replicas that hold most of a prefix, of which they hold the first block at least."""
        holders = [replica for replica in self.replicas if prefix[0][0] in replica.prefixes]
        hits = [replica.prefixes.hit(prefix) for replica in holders]
        return [replica.index for replica, hit in zip(holders, hits, strict=True) if hit == max(hits)]

    def ended(self, replica: int, requests: int) -> None:
        """Account for ``requests`` ended requests of a replica; clients of a closed loop send their next ones."""
        self._count()
        self.outstanding[replica] -= requests
        if self.scenario.workload.clients is not None:
            for _ in range(min(requests, self.end - self.sent)):
                self.send(self.env.now)
        if self.sent >= self.last and not self.done.triggered:
            measured = sum(int(r.metrics[name].sum()) for r in self.replicas for name in ("finished", "aborted"))
            if measured == self.last - self.first:
                self.done.succeed()

    def _arrivals(self) -> Generator[simpy.Event, None, None]:
        while self.sent < self.end:
            request = next(self.requests)
            # By rounding, the clock may be slightly past the arrival.
            yield self.env.timeout(max(request.arrival_s - self.env.now, 0.0))
            self.send(request.arrival_s, request)

    def metrics(self) -> Record:
        """METRICS [replicas] up to now."""
        return np.concatenate([replica.metrics for replica in self.replicas])

    def _snapshot(self) -> Snapshot:
        self._count()
        return Snapshot(self.env.now, self.metrics(), self.requests_s)

    def _count(self) -> None:
        """Update the integral of requests in the system."""
        self.requests_s += sum(self.outstanding) * (self.env.now - self.counted_s)
        self.counted_s = self.env.now


class _Replica:
    """One engine: its state, its queue and the process that runs its steps."""

    def __init__(
        self, simulation: _Simulation, index: int, server: Record, rule: Record, cost: Record, acceptance: Record
    ) -> None:
        self.simulation, self.index = simulation, index
        self.env = simulation.env
        rules = ENGINES[simulation.arm.server.engine]
        self.receive, self.step = rules.receive, rules.step
        self.kv_tokens, self.max_queued = int(server[0]["kv_capacity"]), int(server[0]["max_queued"])
        self.max_new = [klass.max_new_tokens for klass in simulation.scenario.workload.classes]
        self.refused = 0
        self.server, self.rule, self.cost, self.acceptance = server, rule, cost, acceptance
        self.state = np.zeros(1, STATE)
        self.state[0]["ratio"] = server[0]["ratio_first"]
        self.metrics = np.zeros(1, METRICS)
        self.queue = np.zeros(FIRST_QUEUE, QUEUED)
        self.prefixes = Prefixes(int(server[0]["kv_capacity"]))
        self.logged = (0, 0)
        self.wake = self.env.event()
        self.serving = self._serve()
        self.env.process(self.serving)

    def enqueue(self, request: Request, at_s: float, prefix: Prefix | None = None) -> None:
        """Add a request to the queue; a full queue refuses it (``Scheduler._abort_on_queued_limit``)."""
        if int(self.state[0]["queued"]) >= self.max_queued:
            abort(self.metrics, self.server, request.id, request.slo_class)
            self.refused += 1
            return
        prompt, output, max_new = self.receive(
            request.prompt, request.output, self.max_new[request.slo_class], self.kv_tokens
        )
        cached = request.cached
        if prefix is not None and output > 0:
            kv_used = int(self.state[0]["kv_used"])
            cached = min(self.prefixes.use(prefix, kv_used), prompt - 1)
        waiting = Waiting(request.id, at_s, prompt, output, max_new, request.slo_class, cached)
        self.queue = enqueue(self.state, self.queue, waiting)
        if not self.wake.triggered:
            self.wake.succeed()

    def close(self) -> None:
        self.serving.close()
        del self.state, self.queue, self.server, self.rule, self.cost, self.acceptance, self.metrics

    def _serve(self) -> Generator[simpy.Event, None, None]:
        # Local names save attribute lookups: a step of a small batch takes 3 us.
        env, log, step, state, metrics = self.env, self.simulation.log, self.step, self.state, self.metrics
        server, rule, cost, acceptance = self.server, self.rule, self.cost, self.acceptance
        while True:
            now_s = env.now
            step_s, ended = step(state, self.queue, server, rule, cost, acceptance, metrics, now_s)
            if log is not None and step_s > 0:
                self._record(log, now_s, step_s)
            if step_s > 0 or ended:
                # A step that only rejects takes no time, but other processes must run.
                yield env.timeout(step_s)
            if self.refused:
                # Refused requests are answered when the scheduler receives arrivals, between two steps.
                ended += self.refused
                self.refused = 0
            if ended:
                self.simulation.ended(self.index, ended)
            elif step_s == 0:
                self.wake = env.event()
                yield self.wake

    def _record(self, log: list[StepLog], now_s: float, step_s: float) -> None:
        s, m = self.state[0], self.metrics[0]
        before, self.logged = self.logged, (int(m["request_rounds"]), int(m["verified"] - m["request_rounds"]))
        log.append(
            StepLog(
                self.index,
                now_s,
                step_s,
                KINDS[int(s["kind"])],
                int(s["running"]),
                int(s["queued"]),
                int(s["kv_used"]),
                int(s["prefill_tokens"]),
                int(s["cap"]),
                int(s["tier"]),
                self.logged[0] - before[0],
                self.logged[1] - before[1],
            )
        )
