"""Small deployments with results that follow by hand, and an engine that a test runs step by step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dspark_simulator.acceptance_model import MAX_GAMMA, AcceptanceModel, Domain
from dspark_simulator.costs import CurveCost, live
from dspark_simulator.deployment import Memory
from dspark_simulator.engines import ENGINES
from dspark_simulator.engines.slots import enqueue
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import KINDS, StepLog
from dspark_simulator.state import METRICS, QUEUED, STATE, Record, Waiting
from dspark_simulator.workloads import Arrivals, Fixed, Lengths, RequestClass, Slo, Workload
from sglang_dspark.policy import AnyPolicy, CostBelief, Engine, NoDraft, compile_rule

DOMAIN = "any"
FLAT = (0.0,) * MAX_GAMMA


def drafter(p: float) -> AcceptanceModel:
    """A drafter with acceptance probability ``p`` at every token, and a head that predicts exactly ``p``."""
    logit = 100.0 if p == 1.0 else -100.0 if p == 0.0 else math.log(p / (1.0 - p))
    return _drafter(Domain(mean=logit, ability=0, persistence=0, variation=0, knee=100, stretch=1, offsets=FLAT))


def uneven_drafter() -> AcceptanceModel:
    """A drafter whose acceptance varies by request, along the output and by token, but not by position in a block."""
    return _drafter(Domain(mean=0.8, ability=0.7, persistence=0.6, variation=1, knee=2, stretch=2, offsets=FLAT))


def _drafter(domain: Domain) -> AcceptanceModel:
    ones = (1,) * MAX_GAMMA
    return AcceptanceModel(
        target="none",
        drafter="none",
        source="none",
        persistence_tokens=16,
        slope=ones,
        bias=FLAT,
        sts=ones,
        domains={DOMAIN: domain},
    )


def step_cost(
    step_s: float = 0.01,
    per_token_s: float = 0.0,
    *,
    prefill_s: float = 0.02,
    prefill_per_token_s: float = 0.0,
    draft_s: float = 0.001,
    eager_s: float | None = None,
    eager_per_token_s: float = 0.0,
    **fields: Any,
) -> CurveCost:
    """Cost model with ``step_s + per_token_s * tokens`` per step, and likewise for prefills and eager steps."""
    at = (1, 1001)
    return CurveCost.model_validate(
        {
            "kind": "curve",
            "curve": {
                "captured": {"tokens": at, "seconds": [step_s + per_token_s * n for n in at]},
                "draft": {"requests": [1], "seconds": [draft_s]},
                "eager": None
                if eager_s is None
                else {"tokens": at, "seconds": [eager_s + eager_per_token_s * n for n in at]},
            },
            "prefill": {"tokens": at, "seconds": [prefill_s + prefill_per_token_s * n for n in at]},
            **fields,
        }
    )


def a_class(prompt: int | Lengths | None = 1, output: int | Lengths | None = 10, **fields: Any) -> RequestClass:
    """A request class; a plain number is a fixed length."""

    def lengths(given: int | Lengths | None) -> Lengths | None:
        return Fixed(tokens=given) if isinstance(given, int) else given

    defaults = {"name": "chat", "domain": DOMAIN, "slo": Slo(ttft_s=1.0, tpot_s=0.05)}
    return RequestClass(prompt=lengths(prompt), output=lengths(output), **{**defaults, **fields})


def a_scenario(
    arrivals: Arrivals,
    *classes: RequestClass,
    requests: int,
    warmup: int = 0,
    cost: CurveCost | None = None,
    kv_tokens: int = 1_000_000,
    p: float = 0.75,
    max_s: float = 1e6,
    **fields: Any,
) -> Scenario:
    """A minimal scenario with one replica."""
    return Scenario(
        name="by hand",
        model="none",
        hardware="none",
        memory=Memory(kv_tokens=kv_tokens, kv_tokens_without_draft=kv_tokens),
        cost=cost or step_cost(),
        acceptance=drafter(p),
        workload=Workload(arrivals=arrivals, classes=classes or (a_class(),)),
        run=Run(requests=requests, warmup_requests=warmup, max_s=max_s),
        **fields,
    )


class Step(NamedTuple):
    """One step of a :class:`Bench`, with the fields of the step log; requests and KV at its end."""

    kind: str
    running: int
    queued: int
    kv_tokens: int
    prefill_tokens: int
    cap: int
    tier: int
    step_s: float
    ended: int


class Bench:
    """One replica to which a test sends requests and whose steps it runs. Request ids count from 0."""

    def __init__(
        self,
        server: Server,
        *,
        kv_tokens: int = 1_000_000,
        cost: CurveCost | None = None,
        acceptance: AcceptanceModel | None = None,
        policy: AnyPolicy | None = None,
        belief: CostBelief | None = None,
        stock: bool = False,
        oracle: bool = False,
        classes: tuple[RequestClass, ...] = (),
        seed: int = 0,
    ) -> None:
        classes = classes or (a_class(),)
        self.flags = server.record(classes, kv_tokens)
        self.kv_tokens, self.max_new = kv_tokens, [klass.max_new_tokens for klass in classes]
        self.flags[0]["seed"], self.flags[0]["measure_to"] = seed, 1 << 60
        self.flags[0]["stock"], self.flags[0]["oracle"] = stock, oracle
        engine = Engine(server.gamma, server.tiers(), server.captured_requests(), belief)
        self.rule = compile_rule(policy or NoDraft(), engine)
        self.cost = live((cost or step_cost()).tabulate(), 0.0, 1.0)
        self.acceptance = (acceptance or drafter(0.75)).compile([klass.domain for klass in classes])
        self.state, self.metrics, self.queue = np.zeros(1, STATE), np.zeros(1, METRICS), np.zeros(4096, QUEUED)
        self.state[0]["ratio"] = self.flags[0]["ratio_first"]
        rules = ENGINES[server.engine]
        self.receive, self.advance = rules.receive, rules.step
        self.now_s = 0.0
        self.sent = 0

    def send(self, prompt: int, output: int, *, cached: int = 0, slo_class: int = 0) -> int:
        """Send a request now; returns its id."""
        prompt, output, most = self.receive(prompt, output, self.max_new[slo_class], self.kv_tokens)
        waiting = Waiting(self.sent, self.now_s, prompt, output, most, slo_class, cached)
        self.queue = enqueue(self.state, self.queue, waiting)
        self.sent += 1
        return self.sent - 1

    def step(self) -> Step:
        """Run one step; its time is 0 if the engine is idle."""
        step_s, ended = self.advance(
            self.state, self.queue, self.flags, self.rule, self.cost, self.acceptance, self.metrics, self.now_s
        )
        self.now_s += step_s
        s = self.state[0]
        return Step(
            kind=KINDS.get(int(s["kind"]), "idle"),
            running=int(s["running"]),
            queued=int(s["queued"]),
            kv_tokens=int(s["kv_used"]),
            prefill_tokens=int(s["prefill_tokens"]),
            cap=int(s["cap"]),
            tier=int(s["tier"]),
            step_s=step_s,
            ended=ended,
        )

    def steps(self, count: int) -> list[Step]:
        """The next ``count`` steps."""
        return [self.step() for _ in range(count)]

    def until_retracted(self, limit: int = 1000) -> Step:
        """Steps until the first retraction; returns the step that retracted."""
        for _ in range(limit):
            step = self.step()
            if self.metrics[0]["retracted"]:
                return step
        raise AssertionError(f"no retraction in {limit} steps; the last: {step}")

    def drain(self, limit: int = 100_000) -> list[Step]:
        """Steps until the engine is idle."""
        done: list[Step] = []
        while len(done) < limit:
            step = self.step()
            if step.step_s == 0.0 and step.ended == 0:
                return done
            done.append(step)
        raise AssertionError(f"still busy after {limit} steps: {done[-3:]}")

    def produced(self) -> dict[int, int]:
        """Output tokens so far of each decoding request, by id."""
        return dict(zip(self._running("id"), self._running("produced"), strict=True))

    def waiting(self, last: int | None = None) -> Record:
        """Waiting requests, QUEUED [n] in order; only the ``last`` ones if given."""
        queued = int(self.state[0]["queued"])
        rows = np.roll(self.queue, -int(self.state[0]["queue_head"]))[:queued]
        return rows if last is None else rows[queued - last :]

    def lengths(self) -> list[int]:
        """Verify lengths of the last step, if no request has left since."""
        return self._running("length")

    def _running(self, field: str) -> list[int]:
        s = self.state[0]
        return [int(value) for value in s[field][: int(s["running"])]]


def totals(log: list[StepLog], field: str, replicas: int) -> list[float]:
    """The sum of a step-log field by replica."""
    sums = [0.0] * replicas
    for step in log:
        sums[step.replica] += getattr(step, field)
    return sums
