"""The belief that a profiler would write of a server whose steps cost what a model says."""

from __future__ import annotations

from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS, SpsAdditiveTable
from sglang_dspark.policy.capture import vllm_tiers

# SGLang's table wants a bias above 0; where a model has no overhead, so much of the verify time is called bias.
_LEAST_BIAS_S = 1e-6


def sps_additive(cost: CostRecord, max_requests: int, max_tokens: int) -> SpsAdditiveTable:
    """``bias`` is the overhead of a step, ``alpha`` drafting by requests, ``theta`` verifying by tokens when captured.

    Probes are spaced as an engine captures: dense below 256, every 16 above. Attention is that of the context at which
    the model was profiled, since SGLang's table does not know the context.

    Args:
        cost: The model in numbers.
        max_requests: The largest probe of requests, 1..MAX_REQUESTS.
        max_tokens: The largest probe of verify tokens, 1..MAX_TOKENS; the server's largest captured step.

    Raises:
        ValueError: A probe limit is outside its range.
    """
    if not 1 <= max_requests <= MAX_REQUESTS:
        raise ValueError(f"max_requests {max_requests} is not valid; give 1..{MAX_REQUESTS}")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise ValueError(f"max_tokens {max_tokens} is not valid; give 1..{MAX_TOKENS}")
    c = cost[0]
    bias = max(float(c["overhead_s"]), _LEAST_BIAS_S)
    requests, tokens = vllm_tiers(max_requests), vllm_tiers(max_tokens)
    return SpsAdditiveTable(
        bias_seconds=bias,
        bs_probes=tuple(requests.tolist()),
        alpha_seconds=tuple(c["draft_s"][requests].tolist()),
        m_probes=tuple(tokens.tolist()),
        theta_seconds=tuple((c["captured_s"][tokens] + (float(c["overhead_s"]) - bias)).tolist()),
    )
