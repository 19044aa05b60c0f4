"""Cost models in compiled code: a record of fixed size, and functions that time the parts of an engine step from it.

A step takes ``host + draft + verify + inject`` seconds when requests decode, ``host + prefill + inject`` when prompts
are prefilled. Every function takes a one-element array of :data:`COST` and indexes it itself, so that numba unboxes a
single argument for every model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS

GRID_POINTS = 256

COST = np.dtype(
    [
        # Verify time of a captured step by its padded tokens.
        ("captured_s", "f8", (MAX_TOKENS + 1,)),
        # Curves over any number of tokens: points by ascending tokens, of which the first ``.._points`` are used.
        ("eager_tokens", "f8", (GRID_POINTS,)),
        ("eager_at_s", "f8", (GRID_POINTS,)),
        ("eager_points", "i8"),
        ("prefill_tokens", "f8", (GRID_POINTS,)),
        ("prefill_at_s", "f8", (GRID_POINTS,)),
        ("prefill_points", "i8"),
        ("draft_s", "f8", (MAX_REQUESTS + 1,)),
        ("inject_s_per_token", "f8"),
        ("context_s_per_token", "f8"),
        ("profiled_context", "f8"),
        ("prefill_context_s", "f8"),
        # Seconds of a step outside its kernels, with speculation and without it.
        ("overhead_s", "f8"),
        ("request_s", "f8"),
        ("plain_overhead_s", "f8"),
        ("plain_request_s", "f8"),
        # Time to read all experts, the share that one token touches, and how much a draft differs from its anchor.
        ("experts_s", "f8"),
        ("expert_share", "f8"),
        ("draft_novelty", "f8"),
    ],
    align=True,
)

CostRecord = NDArray[Any]


@njit(cache=True)
def verify_s(cost: CostRecord, tokens: int, captured: bool, context_tokens: int, requests: int) -> float:
    """Seconds of the target's forward pass over a decoding step.

    Decode attention reads the KV of every request once, so its time is proportional to the total context of the step's
    requests. The curves contain the attention of a profile in which each request held ``profiled_context`` tokens; the
    difference is added, or subtracted for shorter requests. The result is at least the time of one token without
    context, since the weights are always read.

    Args:
        cost: One record of :data:`COST`.
        tokens: Tokens that the step computes, padding included.
        captured: A CUDA graph runs the step; otherwise it is launched eagerly.
        context_tokens: Context tokens of all requests of the step together.
        requests: Requests of the step.
    """
    c = cost[0]
    base = c.captured_s[tokens] if captured else eager_s(cost, tokens)
    attention = (context_tokens - requests * c.profiled_context) * c.context_s_per_token
    weights = c.captured_s[1] - c.profiled_context * c.context_s_per_token
    time_s = max(base + attention, min(base, weights))
    if captured:
        # An eager step is bound by its launches, which hide the reads.
        time_s += experts_s(cost, requests + (tokens - requests) * c.draft_novelty)
    return float(time_s)


@njit(cache=True)
def experts_s(cost: CostRecord, distinct: float) -> float:
    """Seconds of reading the routed experts that ``distinct`` unrelated tokens touch."""
    c = cost[0]
    return float(c.experts_s * (1.0 - (1.0 - c.expert_share) ** distinct))


@njit(cache=True)
def eager_s(cost: CostRecord, tokens: int) -> float:
    """Seconds of an eager forward pass over ``tokens``, at the profiled context."""
    c = cost[0]
    return _on_grid(c.eager_tokens, c.eager_at_s, c.eager_points, tokens)


@njit(cache=True)
def prefill_s(cost: CostRecord, tokens: int, pairs: float) -> float:
    """Seconds of a prefill pass.

    Args:
        cost: One record of :data:`COST`.
        tokens: New tokens, over all chunks of the pass.
        pairs: Attention pairs: the sum over chunks of new tokens x (context before the chunk + half the chunk).
    """
    c = cost[0]
    return float(_on_grid(c.prefill_tokens, c.prefill_at_s, c.prefill_points, tokens) + pairs * c.prefill_context_s)


@njit(cache=True)
def host_s(cost: CostRecord, requests: int, speculative: bool) -> float:
    """Seconds of a step outside its kernels: scheduling, sampling, synchronisation, and the output of each request.

    Args:
        cost: One record of :data:`COST`.
        requests: Requests of the step.
        speculative: The server speculates.
    """
    c = cost[0]
    if not speculative:
        return float(c.plain_overhead_s + c.plain_request_s * requests)
    return float(c.overhead_s + c.request_s * requests)


@njit(cache=True)
def draft_s(cost: CostRecord, requests: int, fewer: int = 0) -> float:
    """Seconds of drafting one block for each of ``requests``.

    Args:
        cost: Record of the whole block; where ``fewer`` is not 0, followed by one record for each position less.
        fewer: Positions of the block that are not drafted.
    """
    return float(cost[fewer].draft_s[requests])


@njit(cache=True)
def inject_s(cost: CostRecord, tokens: int) -> float:
    """Seconds to capture the target's hidden states of ``tokens`` and write them into the draft's KV.

    Every token that the target processes costs this, including prompts and steps without a draft.
    """
    return float(tokens * cost[0].inject_s_per_token)


@njit(cache=True)
def _on_grid(tokens: NDArray[np.float64], seconds: NDArray[np.float64], points: int, at: float) -> float:
    """Linear between points, constant before the first; beyond the last, the slope of the last two, at least 0."""
    if at <= tokens[0] or points == 1:
        return float(seconds[0])
    low, high = 0, points - 1
    if at > tokens[high]:
        rise = (seconds[high] - seconds[high - 1]) / (tokens[high] - tokens[high - 1])
        return float(seconds[high] + max(rise, 0.0) * (at - tokens[high]))
    while high - low > 1:
        middle = (low + high) // 2
        if tokens[middle] < at:
            low = middle
        else:
            high = middle
    share = (at - tokens[low]) / (tokens[high] - tokens[low])
    return float(seconds[low] + share * (seconds[high] - seconds[low]))


def live(cost: CostRecord, overhead_s: float, slope: float) -> CostRecord:
    """Live step times for a belief: ``overhead_s`` more in every step, and verify time times ``slope``.

    Attention over context is part of verify time and scales with it, so for every step
    ``verify_s(live) == slope * verify_s(belief)``. Draft, injection and prefill are unchanged.

    Args:
        cost: The belief; not modified.
        overhead_s: At least minus the belief's own overhead.
        slope: Above 0.

    Returns:
        A new record.

    Raises:
        ValueError: An argument is outside its range or not finite.
    """
    if not (np.isfinite(slope) and slope > 0):
        raise ValueError(f"slope {slope} is not valid; give a factor above 0")
    overheads = ("overhead_s", "plain_overhead_s")
    least_s = min(float(cost[0][field]) for field in overheads) + overhead_s
    if not (np.isfinite(least_s) and least_s >= 0):
        raise ValueError(f"overhead_s {overhead_s} is not valid; a step's overhead must stay 0 or more")
    truth = cost.copy()
    for field in ("captured_s", "experts_s", "eager_at_s", "context_s_per_token"):
        truth[field] *= slope
    for field in overheads:
        truth[field] += overhead_s
    return truth
