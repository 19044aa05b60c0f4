"""The belief that a profiler would write of a server whose steps cost what a model says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS, EagerTimes, SpsAdditiveTable
from sglang_dspark.policy.capture import vllm_tiers

# SGLang's table wants a bias above 0; where a model has no overhead, so much of the verify time is called bias.
_LEAST_BIAS_S = 1e-6

# Seconds a token by which a slope must change to count as a bend: far below what any timer resolves.
_BEND_S = 1e-12


def sps_additive(cost: CostRecord, max_requests: int, max_tokens: int) -> SpsAdditiveTable:
    """``bias`` is the overhead of a step, ``alpha`` its part by requests and drafting, ``theta`` verifying by tokens.

    Beside SGLang's table stands what the model says of eager steps.

    Probes are spaced as an engine captures, dense below 256 and every 16 above, less those on a line between their
    neighbours. Attention is that of the context at which the model was profiled, since SGLang's table does not know
    the context, and every token touches experts of its own.

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
    """What a model says of eager steps, which stands beside SGLang's table in a belief."""
    c = cost[0]
    points = int(c["eager_points"])
    # A fit may find that the first tokens of a step cost nothing; a belief has times above 0.
    at_s = np.maximum(c["eager_at_s"][:points], _LEAST_BIAS_S)
    tokens, seconds = _corners(c["eager_tokens"][:points].astype(np.int64), at_s)
    return EagerTimes(tokens=tokens, seconds=seconds, request_s=float(c["request_s"]))


def _corners(probes: NDArray[np.int64], seconds: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The probes at which a curve bends, and its values there: the same table in far fewer points."""
    slopes = np.diff(seconds) / np.diff(probes)
    bends = np.ones(len(probes), np.bool_)
    bends[1:-1] = np.abs(np.diff(slopes)) > _BEND_S
    return tuple(probes[bends].tolist()), tuple(seconds[bends].tolist())
