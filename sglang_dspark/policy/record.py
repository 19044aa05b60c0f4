"""The compiled form of a policy: one record that numba unboxes in one piece, scratch space included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS, MAX_TOKENS, CostBelief
from sglang_dspark.policy.rank import DIGIT_VALUES

MAX_CLASSES = 16
MAX_KNOTS = 16

# A draft that survives less often than this is never worth a slot (``DSparkScheduleConfig.survival_eps``).
SURVIVAL_FLOOR = np.float32(1e-6)

RULE = np.dtype(
    [
        # Address of the family's ``compute_budget`` in this process.
        ("compute_budget", "i8"),
        ("gamma", "i8"),
        ("min_length", "i8"),
        ("max_length", "i8"),
        ("fill", "i8"),
        ("counts_prompts", "i8"),
        ("off_above", "f8"),
        ("knots", "i8"),
        ("knot_log2", "f8", (MAX_KNOTS,)),
        ("theta", "f8", (MAX_KNOTS,)),
        ("weight", "f8", (MAX_CLASSES,)),
        ("price_per_token", "f8"),
        # The captured size of each step that fits one; the last of them is 0 where nothing is captured.
        ("padded", "i4", (MAX_TOKENS + 1,)),
        ("last_tier", "i8"),
        ("max_requests", "i8"),
        ("is_rate", "i8"),
        ("requests_s", "f8", (MAX_REQUESTS + 1,)),
        ("tokens_s", "f8", (MAX_TOKENS + 1,)),
        ("rest_s", "f8", (MAX_REQUESTS + 1,)),
        ("knows_eager", "i8"),
        ("eager_s", "f8", (MAX_TOKENS + 1,)),
        ("counts", "i8", (4 * DIGIT_VALUES,)),
        ("keys", "i4", (MAX_REQUESTS * MAX_GAMMA,)),
        ("scratch", "i4", (MAX_REQUESTS * MAX_GAMMA,)),
    ],
    align=True,
)

Rule = NDArray[Any]
"""A one-element array of dtype RULE. Not for two threads at once: it carries its own scratch space."""


class Engine(NamedTuple):
    """The properties of a running server that a policy is bound to.

    Attributes:
        gamma: Drafts a block, 1..16.
        tiers: int64 ascending, captured verify tokens (``capture_num_tokens``); empty where nothing is captured.
        max_requests: Largest batch that a captured graph takes (``max_bs`` of the graph runner).
        belief: The cost belief; None for families that do not need it.
    """

    gamma: int
    tiers: NDArray[np.int64]
    max_requests: int
    belief: CostBelief | None = None


class Load(NamedTuple):
    """The load that the host knows before a step.

    Attributes:
        context: int64 [R], context tokens of each running request.
        slo_class: int64 [R], class index of each running request; the engine clips unknown ones to 0.
        queued: Waiting requests.
        kv_use: Used share of the KV pool, 0..1.
    """

    context: NDArray[np.int64]
    slo_class: NDArray[np.int64]
    queued: int = 0
    kv_use: float = 0.0


class Budget(NamedTuple):
    """The decision that the host takes before the step's own confidences exist.

    Attributes:
        tier: Verify tokens that the step is padded to; the number of anchors and drafts itself where it runs eagerly.
        cap: Drafts beyond the anchors that may be verified; ``R + cap <= tier``.
        draft: Whether the draft forward is worth running.
    """

    tier: int
    cap: int
    draft: bool


@njit(cache=True)
def write_scores(
    rule: Rule,
    survival: NDArray[np.float32],
    context: NDArray[np.int64],
    slo_class: NDArray[np.int64],
    first: int,
    last: int,
) -> int:
    """Write the keys of all candidates at positions ``first`` to ``last - 1``; returns how many there are.

    A candidate's score is ``weight[class] * a / price(context)`` with ``price = 1 + price_per_token * context``, in
    float32; its key is the score's bit pattern.
    """
    record = rule[0]
    keys = record.keys
    scores = keys.view(np.float32)
    n = 0
    for r in range(survival.shape[0]):
        factor = request_factor(record, context[r], slo_class[r])
        for j in range(first, last):
            a = survival[r, j]
            if not a >= SURVIVAL_FLOOR:
                break
            scores[n] = factor * a
            n += 1
    return n


@njit(cache=True, inline="always")
def request_factor(record: Any, context: int, slo_class: int) -> np.float32:
    """Factor of a request's survivals in its scores; float32, so that every backend forms the same product."""
    return np.float32(record.weight[slo_class] / (1.0 + record.price_per_token * context))
