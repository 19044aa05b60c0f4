"""The simulated SGLang engine against a second implementation of SGLang's scheduler, step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspark_simulator import draws
from dspark_simulator.acceptance_model import propose
from dspark_simulator.histogram import empty, observe
from dspark_simulator.prefixes import prefix_of
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.state import Record
from dspark_simulator.workloads import Arrivals, Closed, Poisson, RequestClass, Uniform
from dspark_simulator.workloads import Request as SentRequest
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Fixed
from tests.simulator.deployment import a_class, a_scenario, step_cost
from tests.simulator.reference_engine import OutOfMemoryError, Request, Row, Scheduler

# Seconds of a step by kind, and of each token of all but eager ones. Drafts are free: their times are not compared.
STEP_S = {"prefill": 0.02, "graph": 0.01, "eager": 0.05}
TOKEN_S = {"prefill": 1e-4, "graph": 1e-4, "eager": 0.0}
COST = step_cost(
    STEP_S["graph"],
    TOKEN_S["graph"],
    prefill_s=STEP_S["prefill"],
    prefill_per_token_s=TOKEN_S["prefill"],
    draft_s=0.0,
    eager_s=STEP_S["eager"],
)


@dataclass
class Client:
    """Token times of a request as its client sees them."""

    request: Request
    arrival_s: float
    tokens: int = 0
    first_s: float = math.nan
    last_s: float = math.nan

    def look(self, now_s: float, itl: NDArray[np.int64]) -> None:
        """Record the tokens up to now; tokens that arrive together share the gap before them."""
        new = self.request.produced - self.tokens
        if new > 0 and self.tokens == 0:
            self.first_s = now_s
        elif new > 0:
            observe(itl, (now_s - self.last_s) / new, new)
        if new > 0:
            self.tokens, self.last_s = self.request.produced, now_s

    def ttft_s(self) -> float:
        return self.first_s - self.arrival_s

    def tpot_s(self) -> float:
        return (self.last_s - self.first_s) / max(self.tokens - 1, 1)


class Case(NamedTuple):
    """A scenario of one replica, its server, and the verify length that its planner gives every request."""

    scenario: Scenario
    server: Server
    length: int
    seed: int


def arrivals_of(case: Case) -> Iterator[tuple[float, Request]]:
    """The workload's requests with their arrival times; a run that drains has a last one."""
    classes = case.scenario.workload.classes
    rows = itertools.chain.from_iterable(chunk.tolist() for chunk in case.scenario.workload.chunks(case.seed))
    for number, arrival_s, prompt, output, index, cached in rows:
        if case.scenario.run.drain and number == case.scenario.run.requests:
            return
        klass = classes[index]
        sent = SentRequest(number, arrival_s, prompt, output, index, cached)
        shared = prefix_of(case.scenario.workload, sent, case.seed)
        prefix = None if shared is None else (shared[0][0].group, shared[0][0].number)
        most = klass.max_new_tokens or output
        yield arrival_s, Request(number, prompt, output, most, klass.ignore_eos, cached, prefix)


def step_s(kind: str, tokens: int) -> float:
    return STEP_S[kind] + TOKEN_S[kind] * tokens


def reference(case: Case) -> Scheduler:
    drafter = case.scenario.drafter().compile([klass.domain for klass in case.scenario.workload.classes])
    survival = np.empty(case.server.gamma, np.float32)

    def accepted(number: int, produced: int) -> int:
        key = np.uint64(draws.stream(case.seed, number))
        return propose(drafter, key, 0, produced, case.server.gamma, survival)

    return Scheduler(case.server, case.scenario.memory.kv_tokens, step_s, case.length, accepted)


def steps_of(
    case: Case, scheduler: Scheduler, clients: dict[int, Client], itl: NDArray[np.int64]
) -> Iterator[tuple[float, Row]]:
    """Run the reference: its steps with their start times; ``clients`` and ``itl`` receive the client's view."""
    loop, arrivals = case.scenario.workload.clients, arrivals_of(case)
    now_s, upcoming = 0.0, next(arrivals, None)
    while True:
        most = (loop or 0) + len(scheduler.finished) + len(scheduler.aborted)
        while upcoming is not None and (upcoming[0] <= now_s if loop is None else len(clients) < most):
            arrival_s, request = upcoming
            clients[request.id] = Client(request, now_s if loop else arrival_s)
            scheduler.receive(request)
            upcoming = next(arrivals, None)
        row = scheduler.step()
        if row is not None:
            for number in range(min(case.scenario.run.requests, len(clients))):
                clients[number].look(now_s + row.step_s, itl)
            yield now_s, row
            now_s += row.step_s
        elif scheduler.idle:
            if upcoming is None:
                return
            now_s = max(now_s, upcoming[0])


def simulated(case: Case) -> tuple[list[StepLog], Record]:
    log: list[StepLog] = []
    totals: list[Record] = []
    scheduled = case.server.speculative and case.server.verify_mode != "static"
    arm = Arm("stock", case.server, Fixed(length=case.length) if scheduled else None, stock=True)
    # Runs of a few requests, most of them refused perhaps, are compared step by step all the same.
    with suppress(InputError):
        simulate(case.scenario, arm, seed=case.seed, log=log, totals=totals)
    return log, totals[0][0]


def compare(case: Case) -> None:
    """Compares every step and the end of every request, up to where SGLang itself would run out of memory."""
    log, metrics = simulated(case)
    other = reference(case)
    clients: dict[int, Client] = {}
    itl = empty()
    steps = steps_of(case, other, clients, itl)
    for number, step in enumerate(log):
        try:
            start_s, row = next(steps)
        except OutOfMemoryError:
            event("SGLang runs out of memory")
            return
        seen = Row(*(getattr(step, field) for field in Row._fields))
        assert seen == row._replace(step_s=step.step_s), f"step {number}"
        assert (step.start_s, step.step_s) == pytest.approx((start_s, row.step_s), rel=1e-9), f"step {number}"
    if case.scenario.run.drain:
        assert next(steps, None) is None
    measured = range(case.scenario.run.requests)
    counts = {
        "retracted": other.retracted,
        "eager": other.eager,
        "aborted": len(set(measured) & set(other.aborted)),
        "finished": len(set(measured) & set(other.finished)),
    }
    assert {name: int(metrics[name].sum()) for name in counts} == counts
    finished = [clients[number] for number in other.finished if number in measured]
    assert metrics["ttft_sum_s"].sum() == pytest.approx(sum(client.ttft_s() for client in finished))
    assert metrics["tpot_sum_s"].sum() == pytest.approx(sum(client.tpot_s() for client in finished))
    assert metrics["itl"].sum(axis=0).tolist() == itl.tolist()
    for name, count in counts.items():
        if count:
            event(name)


@st.composite
def servers(draw: st.DrawFn) -> Server:
    running = draw(st.sampled_from([5, 13, 24, 8, 3, 2, 1]))
    chunk = draw(st.sampled_from([40, 1000, 16, 3]))
    flags: dict[str, Any] = {
        "speculative": draw(st.booleans()),
        "gamma": draw(st.sampled_from([1, 3, 7])),
        "verify_mode": draw(st.sampled_from(["static", "cap-accept", "compact"])),
        "max_running_requests": running,
        "capture_requests": draw(st.sampled_from([4, 20, 512, 1, 0])),
        "chunked_prefill_size": chunk,
        "max_prefill_tokens": draw(st.sampled_from([1000, 60, 10])),
        "enable_mixed_chunk": chunk > running and draw(st.integers(0, 3)) == 0,
        "schedule_conservativeness": draw(st.sampled_from([0.05, 0.05, 0.1, 1.0, 2.0])),
        "min_free_slots_delay": draw(st.sampled_from([None, 1, 2, 4, 30])),
        "prefill_decode_interval": draw(st.sampled_from([0, 0, 1, 3, 8])),
        "prefill_decode_interval_min_bs": draw(st.sampled_from([0, 2, 6])),
        "prefill_max_requests": draw(st.sampled_from([None, None, 1, 3])),
        "max_queued_requests": draw(st.sampled_from([None, None, 5, 20])),
    }
    if flags["capture_requests"] and draw(st.integers(0, 2)) == 0:
        flags["cuda_graph_bs_decode"] = tuple(sorted(draw(st.sets(st.integers(1, 32), min_size=1, max_size=6))))
    return Server.model_validate(flags)


@st.composite
def classes(draw: st.DrawFn, name: str) -> RequestClass:
    return a_class(
        Uniform(min=1, max=draw(st.sampled_from([12, 50, 150, 1]))),
        Uniform(min=1, max=draw(st.sampled_from([60, 60, 30, 8, 1]))),
        name=name,
        share=draw(st.sampled_from([0.2, 1.0])),
        cached_prefix=draw(st.sampled_from([0.0, 0.6])),
        prefixes=draw(st.sampled_from([0, 1, 3])),
        **draw(st.sampled_from([{}, {"ignore_eos": True}, {"max_new_tokens": 30}, {"max_new_tokens": 5000}])),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    server = draw(servers())
    mix = [draw(classes("first")), draw(classes("second"))][: draw(st.integers(1, 2))]
    arrivals: Arrivals = Poisson(rate_per_s=draw(st.sampled_from([30.0, 200.0, 8.0, 2.0])))
    if draw(st.booleans()):
        arrivals = Closed(clients=draw(st.sampled_from([12, 30, 4, 1])))
    requests = draw(st.integers(10, 50))
    scenario = a_scenario(
        arrivals,
        *mix,
        requests=requests,
        cost=COST,
        kv_tokens=draw(st.sampled_from([90, 150, 150, 220, 600, 100_000, 40])),
        p=draw(st.sampled_from([0.3, 0.75, 1.0])),
    )
    drains = scenario.workload.clients is None or draw(st.booleans())
    scenario = scenario.model_copy(update={"run": Run(requests=requests, warmup_requests=0, drain=drains)})
    return Case(scenario, server, draw(st.integers(1, server.gamma)), draw(st.integers(0, 1 << 30)))


SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True
)


@settings(SETTINGS, max_examples=300)
@given(cases())
def test_steps_are_those_of_the_reference(case: Case) -> None:
    compare(case)


@pytest.mark.slow
@settings(SETTINGS, max_examples=6000)
@given(cases())
def test_steps_are_those_of_the_reference_in_many_scenarios(case: Case) -> None:
    compare(case)
