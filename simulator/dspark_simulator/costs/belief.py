"""The cost table that a profiler would measure on a server whose steps follow a cost model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS, EagerTimes, SpsAdditiveTable
from sglang_dspark.policy.capture import vllm_tiers

# SGLang's table requires a bias above 0; without an overhead, this much of the verify time is moved to the bias.
_LEAST_BIAS_S = 1e-6

# Change of slope, in seconds per token, that counts as a bend: far below the resolution of a timer.
_BEND_S = 1e-12


def sps_additive(cost: CostRecord, max_requests: int, max_tokens: int) -> SpsAdditiveTable:
    """SGLang's additive table of a cost model, plus the model's times of eager steps.

    ``bias`` is the overhead of a step, ``alpha`` the part by requests and drafting, ``theta`` verifying by tokens.
    Probes are spaced like captured sizes, dense below 256 and every 16 above, without those on a line between their
    neighbours. SGLang's table has no context, so attention is that of the profiled context; every token touches
    different experts.

    Args:
        cost: The model in numbers.
        max_requests: The largest probe of requests, 1..MAX_REQUESTS.
        max_tokens: The largest probe of verify tokens, 1..MAX_TOKENS.

    Raises:
        ValueError: A probe limit is outside its range.
    """
    if not 1 <= max_requests <= MAX_REQUESTS:
        raise ValueError(f"max_requests {max_requests} is not valid; give 1..{MAX_REQUESTS}")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise ValueError(f"max_tokens {max_tokens} is not valid; give 1..{MAX_TOKENS}")
    c = cost[0]
    bias = max(float(c["overhead_s"]), _LEAST_BIAS_S)
    each_s = float(c["request_s"]) * np.arange(len(c["draft_s"]))
    at = vllm_tiers(max_requests)
    requests, alpha = _corners(at, (c["draft_s"] + each_s)[at])
    at = vllm_tiers(max_tokens)
    touched = 1.0 - (1.0 - float(c["expert_share"])) ** np.arange(len(c["captured_s"]))
    curve = c["captured_s"] + float(c["experts_s"]) * touched
    tokens, theta = _corners(at, (curve + (float(c["overhead_s"]) - bias))[at])
    return SpsAdditiveTable(
        bias_seconds=bias,
        bs_probes=requests,
        alpha_seconds=alpha,
        m_probes=tokens,
        theta_seconds=theta,
        eager=eager_times(cost),
    )


def eager_times(cost: CostRecord) -> EagerTimes:
    """Times of eager steps of a cost model, the part of a belief that SGLang's table does not have."""
    c = cost[0]
    points = int(c["eager_points"])
    # Fitted times of small steps may be 0; a belief requires times above 0.
    at_s = np.maximum(c["eager_at_s"][:points], _LEAST_BIAS_S)
    tokens, seconds = _corners(c["eager_tokens"][:points].astype(np.int64), at_s)
    return EagerTimes(tokens=tokens, seconds=seconds, request_s=float(c["request_s"]))


def _corners(probes: NDArray[np.int64], seconds: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The probes at which a curve bends, and its values there: the same table with far fewer points."""
    slopes = np.diff(seconds) / np.diff(probes)
    bends = np.ones(len(probes), np.bool_)
    bends[1:-1] = np.abs(np.diff(slopes)) > _BEND_S
    return tuple(probes[bends].tolist()), tuple(seconds[bends].tolist())
