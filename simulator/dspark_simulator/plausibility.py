"""Warnings about values of a scenario that are valid and cannot be meant: wrong units, or parts that do not fit.

A new check is a function here and an entry of ``CHECKS``. docs/simulator.md lists the rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.costs import CostRecord, numeric
from dspark_simulator.deployment import Truth
from dspark_simulator.scenario import Scenario
from dspark_simulator.workloads import RequestClass
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.kv_pool import kv_capacity_tokens

# SGLang's usual share of the memory for weights, request slots and KV.
MEMORY_FRACTION: Final = 0.85
# Stated pools from 1/POOL_FACTOR of the computed one pass.
POOL_FACTOR: Final = 2.0
# SLOs are in milliseconds if they are this many times what a full server needs.
TPOT_FACTOR: Final = 20.0
TTFT_FACTOR: Final = 10.0
PATIENCE_S: Final = 60.0
# Rates beyond this many times what the replicas carry without speculation.
RATE_FACTOR: Final = 10.0
LONGEST_STEP_S: Final = 1.0
LONGEST_OVERHEAD_S: Final = 0.1
LARGEST_SLOPE: Final = 10.0
LARGEST_QUALITY: Final = 3.0
LARGEST_POOL: Final = 1_000_000_000
LEAST_SHARE: Final = 0.01
CUT_SHARE: Final = 0.1


class Warned(NamedTuple):
    """A value that is valid and cannot be meant.

    Attributes:
        field: Its field, as ``workload.classes.0.slo.tpot_s``.
        message: Why it cannot be meant, and what to do.
    """

    field: str
    value: Any
    message: str

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.field}: {value}: {self.message}"


class _Facts:
    """What several checks compute from a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.computed = scenario.cost.computed_from()
        self.requests: NDArray[np.void] = next(scenario.workload.chunks(seed=0))

    @cached_property
    def gpu(self) -> str | None:
        """The kind of GPU by the step times or the name of the hardware."""
        return getattr(self.scenario.cost, "gpu", None) or self.named[1]

    @cached_property
    def named(self) -> tuple[int | None, str | None]:
        """Number and kind of the GPUs that ``hardware`` names."""
        number, name = re.fullmatch(r"(?:(\d+)\s*x\s*)?(.*)", self.scenario.hardware.strip()).groups()  # type: ignore[union-attr]
        kind = next((one for one in GPUS if one.lower() == name.lower()), None)
        return (int(number) if number and kind else None), kind

    @cached_property
    def fastest(self) -> CostRecord:
        """Step times at the fast end of ``live``."""
        truth = Truth(*(low for _, (low, _) in self.scenario.live))
        return self.scenario.live_steps(self.scenario.server.gamma, truth)

    @cached_property
    def slowest(self) -> CostRecord:
        truth = Truth(*(high for _, (_, high) in self.scenario.live))
        return self.scenario.live_steps(self.scenario.server.gamma, truth)

    @cached_property
    def running(self) -> int:
        """Requests of the largest batch."""
        return min(self.scenario.largest_batch(), self.scenario.server.max_running_requests)

    def lone_step_s(self) -> float:
        """Decode step of one request without speculation."""
        return numeric.host_s(self.fastest, 1, False) + numeric.verify_s(self.fastest, 1, True, 1, 1)

    def longest_step_s(self) -> float:
        """Verify step of the largest batch, every draft verified."""
        running, gamma = self.running, self.scenario.server.gamma
        context = int(running * float((self.requests["prompt"] + self.requests["output"]).mean()))
        verify_s = numeric.verify_s(self.slowest, running * (gamma + 1), True, context, running)
        return numeric.host_s(self.slowest, running, True) + numeric.draft_s(self.slowest, running) + verify_s

    def prompt_s(self, cost: CostRecord, prompt: float, cached: float = 0.0) -> float:
        """Prefill of one prompt alone."""
        new = max(1.0, prompt - cached)
        chunk = min(new, float(self.scenario.server.chunked_prefill_size))
        pairs = chunk * (cached + new / 2)
        return new / chunk * (numeric.prefill_s(cost, math.ceil(chunk), pairs) + numeric.host_s(cost, 1, False))

    def of_class(self, place: int) -> NDArray[np.void]:
        members: NDArray[np.void] = self.requests[self.requests["slo_class"] == place]
        return members


def warnings(scenario: Scenario) -> list[Warned]:
    """Values of ``scenario`` that cannot be meant, in the order of its fields."""
    facts = _Facts(scenario)
    return [warned for check in CHECKS for warned in check(facts)]


def _gpus(facts: _Facts) -> Iterator[Warned]:
    scenario, (number, kind) = facts.scenario, facts.named
    tp = None if facts.computed is None else facts.computed.tp
    if tp is not None and tp != scenario.gpus:
        yield Warned(
            "gpus",
            scenario.gpus,
            f"the step times are of a replica on {tp} GPUs (cost.tp); make gpus and cost.tp equal",
        )
    if number is not None and number != scenario.gpus:
        yield Warned(
            "hardware", scenario.hardware, f"names {number} GPUs, and gpus is {scenario.gpus}; make them equal"
        )
    if kind is not None and kind != facts.gpu:
        yield Warned(
            "hardware", scenario.hardware, f"the step times are of {facts.gpu} (cost.gpu); name one GPU in both"
        )
    shapes = known(scenario.model)
    if facts.computed is not None and shapes is not None:
        theirs, named = facts.computed.model.parameters(), shapes.model.parameters()
        if not 0.9 < theirs / named < 1.1:
            yield Warned(
                "cost.model",
                f"{theirs / 1e9:.3g} B parameters",
                f"{scenario.model} has {named / 1e9:.3g} B; name the same model in model and cost.model",
            )


def _pool(facts: _Facts) -> Iterator[Warned]:
    scenario, memory, shape = facts.scenario, facts.scenario.memory, facts.scenario.shape()
    if memory.kv_tokens > memory.kv_tokens_without_draft:
        yield Warned(
            "memory.kv_tokens",
            memory.kv_tokens,
            f"the drafter takes memory, so a server without it has more than {memory.kv_tokens_without_draft} "
            "(kv_tokens_without_draft); exchange them",
        )
    if shape is None or facts.gpu is None:
        if memory.kv_tokens > LARGEST_POOL:
            yield Warned("memory.kv_tokens", memory.kv_tokens, "more than a node holds; give tokens, not bytes")
        return
    gpu, shapes = GPUS[facts.gpu], known(scenario.model)
    draft = facts.computed.draft if facts.computed is not None else shapes.draft if shapes is not None else None
    held = gpu.memory_bytes * scenario.gpus
    weights = shape.weight_bytes() + (draft.weight_bytes(shape) if draft is not None else 0.0)
    if weights > held:
        yield Warned(
            "gpus",
            scenario.gpus,
            f"{weights / 1e9:.0f} GB of weights do not fit into {scenario.gpus} {facts.gpu} of {held / 1e9:.0f} GB; "
            f"give {math.ceil(weights / gpu.memory_bytes / MEMORY_FRACTION)} GPUs or more",
        )
        return
    flags = memory.at or scenario.server.pool_flags()
    pools = {"kv_tokens": draft, "kv_tokens_without_draft": None}
    for field, drafter in pools.items():
        tokens = getattr(memory, field)
        drafted = 0.0 if drafter is None else drafter.kv_bytes_per_token(shape, scenario.gpus)
        needed = tokens * (shape.pool_bytes_per_token(scenario.gpus) + drafted)
        left = held - shape.weight_bytes() - (0.0 if drafter is None else drafter.weight_bytes(shape))
        fits = max(0, kv_capacity_tokens(gpu, scenario.gpus, MEMORY_FRACTION, shape, drafter, flags))
        computed = f"at a memory fraction of {MEMORY_FRACTION} about {fits} tokens fit"
        if needed > left:
            yield Warned(
                f"memory.{field}",
                tokens,
                f"takes {needed / 1e9:.0f} GB, and {scenario.gpus} {facts.gpu} have {left / 1e9:.0f} GB beside the "
                f"weights; {computed}",
            )
        elif tokens * POOL_FACTOR < fits:
            yield Warned(f"memory.{field}", tokens, f"less than half of what the GPUs hold; {computed}")
    stated = memory.costs
    if stated is not None and facts.computed is None:
        token_bytes = shape.pool_bytes_per_token(scenario.gpus) / scenario.gpus
        if not 0.5 < (stated.plain_token_bytes or stated.token_bytes) / token_bytes < 2:
            yield Warned(
                "memory.costs.token_bytes",
                stated.token_bytes,
                f"{scenario.model} stores about {token_bytes:.0f} bytes a token on each GPU; give bytes",
            )


def _lengths(facts: _Facts) -> Iterator[Warned]:
    scenario, shape = facts.scenario, facts.scenario.shape()
    longest = None if shape is None else shape.context_length
    pool = scenario.memory.kv_tokens if scenario.server.speculative else scenario.memory.kv_tokens_without_draft
    for place, klass in enumerate(scenario.workload.classes):
        where, sample = f"workload.classes.{place}", facts.of_class(place)
        for field in ("prompt", "output"):
            lengths = getattr(klass, field)
            for name, message in () if lengths is None else lengths.unlikely():
                yield Warned(f"{where}.{field}.{name}", getattr(lengths, name), message)
        if not len(sample):
            continue
        too_long = float((sample["prompt"] + 1 >= pool).mean())
        if too_long > 0:
            yield Warned(
                f"{where}.prompt",
                f"up to {sample['prompt'].max()} tokens",
                f"{too_long:.0%} of the prompts exceed the KV pool of {pool} tokens, and are answered with an error; "
                "shorten them or enlarge memory.kv_tokens",
            )
        both = sample["prompt"] + np.minimum(sample["output"], klass.max_new_tokens or sample["output"])
        if longest is not None and (beyond := float((both > longest).mean())) > 0:
            yield Warned(
                f"{where}.prompt",
                f"up to {both.max()} tokens with the output",
                f"{beyond:.1%} of the requests exceed the model's context of {longest} tokens; shorten them",
            )
        cut = float((sample["output"] > klass.max_new_tokens).mean()) if klass.max_new_tokens else 0.0
        if cut > CUT_SHARE:
            yield Warned(
                f"{where}.max_new_tokens", klass.max_new_tokens, f"cuts {cut:.0%} of the outputs; raise it or use 0"
            )
        if klass.prefixes and not klass.cached_prefix and scenario.workload.arrivals.recording() is None:
            yield Warned(
                f"{where}.prefixes", klass.prefixes, "nothing is shared while cached_prefix is 0; give both or neither"
            )
        part = klass.share / sum(one.share for one in scenario.workload.classes)
        if part < LEAST_SHARE:
            yield Warned(
                f"{where}.share",
                klass.share,
                f"{part:.2%} of the requests, and the others' {1 - part:.2%}: shares are relative to each other; give "
                "all in one unit",
            )


def _service_levels(facts: _Facts) -> Iterator[Warned]:
    longest_s, gamma = facts.longest_step_s(), facts.scenario.server.gamma
    verify_s = numeric.verify_s(facts.fastest, gamma + 1, True, 1, 1)
    round_s = numeric.host_s(facts.fastest, 1, True) + numeric.draft_s(facts.fastest, 1) + verify_s
    least_tpot_s = min(facts.lone_step_s(), round_s / (gamma + 1))
    for place, klass in enumerate(facts.scenario.workload.classes):
        where, sample = f"workload.classes.{place}.slo", facts.of_class(place)
        if not len(sample):
            continue
        yield from _tpot(f"{where}.tpot_s", klass, least_tpot_s, longest_s)
        prompt, cached = float(np.median(sample["prompt"])), float(np.median(sample["cached"]))
        least_s = facts.prompt_s(facts.fastest, prompt, cached)
        batch_s = facts.running * facts.prompt_s(facts.slowest, float(sample["prompt"].mean()))
        yield from _ttft(f"{where}.ttft_s", klass, least_s, batch_s, prompt)


def _tpot(field: str, klass: RequestClass, least_s: float, longest_s: float) -> Iterator[Warned]:
    tpot_s = klass.slo.tpot_s
    if tpot_s > TPOT_FACTOR * longest_s:
        yield Warned(
            field,
            tpot_s,
            f"every request meets it: the largest step takes {longest_s:.3g} s; give seconds, not milliseconds",
        )
    if tpot_s < least_s:
        yield Warned(
            field,
            tpot_s,
            f"no request can meet it: alone and with every draft accepted, a token takes {least_s:.2g} s; raise it",
        )


def _ttft(field: str, klass: RequestClass, least_s: float, batch_s: float, prompt: float) -> Iterator[Warned]:
    ttft_s = klass.slo.ttft_s
    if ttft_s > max(PATIENCE_S, TTFT_FACTOR * batch_s):
        yield Warned(
            field,
            ttft_s,
            f"a full batch of prompts takes {batch_s:.2g} s; give seconds, not milliseconds",
        )
    if ttft_s < least_s:
        yield Warned(
            field,
            ttft_s,
            f"half of the requests cannot meet it: {prompt:.0f} tokens take {least_s:.2g} s to prefill alone; raise it",
        )


def _steps(facts: _Facts) -> Iterator[Warned]:
    scenario, cost = facts.scenario, facts.scenario.cost
    lone_s = facts.lone_step_s()
    for field in ("overhead_s", "request_s"):
        value = getattr(cost, field)
        if value > LONGEST_OVERHEAD_S and value > (lone_s - value):
            yield Warned(f"cost.{field}", value, "more than the rest of a step; give seconds, not milliseconds")
    if lone_s - cost.overhead_s - cost.request_s > LONGEST_STEP_S:
        yield Warned("cost", cost.kind, f"a step of one request takes {lone_s:.3g} s; give seconds, not milliseconds")
    low_s, high_s = scenario.live.overhead_s
    if high_s > max(LONGEST_OVERHEAD_S, lone_s - low_s):
        yield Warned(
            "live.overhead_s", high_s, f"a step takes {lone_s:.3g} s without it; give seconds, not milliseconds"
        )
    if scenario.live.slope[1] > LARGEST_SLOPE:
        yield Warned("live.slope", scenario.live.slope[1], "a factor on verify time, not percent; give about 1")
    if abs(scenario.drafter_quality) > LARGEST_QUALITY:
        yield Warned(
            "drafter_quality",
            scenario.drafter_quality,
            "logits, not percent: at 3 the odds of acceptance are 20 times as high; give -1 to 1",
        )


def _load(facts: _Facts) -> Iterator[Warned]:
    scenario, run, arrivals = facts.scenario, facts.scenario.run, facts.scenario.workload.arrivals
    rate_per_s = arrivals.mean_rate_per_s
    if rate_per_s is None:
        clients = scenario.workload.clients or 0
        if clients < scenario.replicas:
            yield Warned(
                "workload.arrivals.clients", clients, f"{scenario.replicas} replicas are never all busy; raise it"
            )
    else:
        carried = scenario.replicas * scenario.largest_batch() / scenario.residence_s()
        beyond = f"the replicas carry about {carried:.2g} requests/s without speculation"
        if rate_per_s > RATE_FACTOR * carried:
            yield Warned("workload.arrivals", rate_per_s, f"{beyond}; give requests per second, not per minute")
        elif max(scenario.loads) * rate_per_s > RATE_FACTOR * carried:
            yield Warned(
                "loads", max(scenario.loads), f"{beyond}; loads are factors on the rate of {rate_per_s:g} requests/s"
            )
        if run.requests / rate_per_s > run.max_s:
            yield Warned(
                "run.max_s",
                run.max_s,
                f"{run.requests} requests take {run.requests / rate_per_s:.0f} s to arrive; raise it",
            )
    if run.warmup_requests > run.requests - run.warmup_requests:
        yield Warned(
            "run.warmup_requests",
            run.warmup_requests,
            f"only {run.requests - run.warmup_requests} requests after it are measured; requests includes the warm-up",
        )


CHECKS: Final[tuple[Callable[[_Facts], Iterator[Warned]], ...]] = (
    _gpus,
    _pool,
    _steps,
    _lengths,
    _service_levels,
    _load,
)
