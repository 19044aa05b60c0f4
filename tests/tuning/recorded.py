"""Recordings of a server that never was: steps of known cost, drafts of a known drafter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from dspark_simulator import draws
from dspark_simulator.acceptance_model import AcceptanceModel, propose
from dspark_tuning.measuring.recording.schema import About
from sglang_dspark.serving.step_schema import RECORDING

GAMMA = 7
OUTPUT = 96

StepCost = Callable[[int, int, bool, int], float]
"""Seconds of a step by requests, tokens that run, drafting, and context tokens."""


def about(**fields: Any) -> About:
    known: dict[str, Any] = {
        "source": "dspark",
        "engine": "0.5.23",
        "model": "target",
        "draft_model": "draft",
        "gamma": GAMMA,
        "verify_mode": "compact",
        "max_running_requests": 64,
        "max_total_num_tokens": 100_000,
        "chunked_prefill_size": 4096,
    }
    return About.model_validate(known | fields)


def steps(
    model: AcceptanceModel,
    cost: StepCost,
    loads: list[tuple[int, int]],
    per_load: int,
    *,
    noise: float = 0.0,
    tiers: Callable[[int], int] | None = None,
    tell_tiers: bool = False,
    seed: int = 0,
) -> pa.Table:
    """Decode steps of a closed loop under loads of (requests, drafts verified; -1 for no draft), a run after the other.

    Args:
        model: Its domains are the classes, in their order; the head's logits are recorded without temperatures.
        tiers: What a step of so many tokens is padded to.
        tell_tiers: The recording has the padded sizes.
    """
    rng = np.random.default_rng(seed)
    compiled = model.with_temperatures([1.0] * model.gamma).compile(list(model.domains))
    survival = np.empty(GAMMA, np.float32)
    rows: list[dict[str, Any]] = []
    sent, number, clock = 0, 0, 0.0
    for requests, verified in loads:
        running: list[list[int]] = []
        for _ in range(per_load):
            while len(running) < requests:
                running.append([sent, 0])
                sent += 1
            lengths, accepted, confidence = [], [], []
            for request in running:
                if verified < 0:
                    lengths.append(0)
                    accepted.append(1)
                    request[1] += 1
                    continue
                domain = request[0] % len(model.domains)
                key = np.uint64(draws.stream(seed, request[0]))
                good = propose(compiled, key, domain, request[1], GAMMA, survival)
                confidence += (survival / np.concatenate([[1.0], survival[:-1]])).tolist()
                lengths.append(verified)
                accepted.append(min(good, verified) + 1)
                request[1] += accepted[-1]
            context = sum(64 + request[1] for request in running)
            tokens = sum(lengths) + requests
            ran = tokens if tiers is None else tiers(tokens)
            step_s = cost(requests, ran, verified >= 0, context) * float(np.exp(noise * rng.standard_normal()))
            number, clock = number + 1, clock + step_s
            rows.append(
                {
                    "segment": 0,
                    "step": number,
                    "kind": "decode",
                    "ended_s": clock,
                    "step_s": step_s,
                    "mode": "on",
                    "requests": requests,
                    "queued": 0,
                    "context_tokens": context,
                    "drafted_tokens": GAMMA * requests if verified >= 0 else 0,
                    "verify_tokens": tokens,
                    "tier": ran if tell_tiers else None,
                    "rid": [str(request[0]) for request in running],
                    "slo_class": [request[0] % len(model.domains) for request in running],
                    "verify_length": lengths,
                    "accepted_length": accepted,
                    "confidence": confidence if verified >= 0 else None,
                }
            )
            running = [request for request in running if request[1] < OUTPUT]
    return pa.Table.from_pylist(rows, schema=RECORDING)


def prefills(cost: Callable[[int, int], float], sizes: list[int], each: int) -> pa.Table:
    """Prefill steps of one request and so many tokens, as often as said."""
    rows = [
        {
            "segment": 0,
            "step": 1_000_000 + i,
            "kind": "prefill",
            "step_s": cost(1, size),
            "mode": "on",
            "requests": 1,
            "context_tokens": 0,
            "prefill_tokens": size,
        }
        for i, size in enumerate(size for size in sizes for _ in range(each))
    ]
    return pa.Table.from_pylist(rows, schema=RECORDING)
