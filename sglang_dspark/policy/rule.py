"""The decision rule: budget on the host from lagged confidences, lengths on the device from current ones.

A server that runs captured CUDA graphs must know the padded size of a step before the step's own confidences have
reached the host, so every policy decides in two stages, and the simulator and the live engine call the same two
functions at the same lag.

Why this is lossless (paper, Appendix A): whether draft k of a request is verified may depend on anything but what was
drawn at k or later. ``budget`` sees confidences of earlier steps only. ``lengths`` admits by rank of the score, and a
request's scores never increase along the block, ties going to the earlier position; so draft k's rank among the
candidates does not change with any later draft of its request, and its own survival ``a_k = c_1 ... c_k`` is computed
from the hidden state and the token before it. A scheduler that maximises over *current* confidences has neither
property: the survival of draft k + 1, which depends on the token drawn at k, moves the budget that admits k.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.errors import InputError
from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS, MAX_TOKENS
from sglang_dspark.policy.dispatch import address, family_budget
from sglang_dspark.policy.families.argmax import best_budget
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.families.greedy import rate
from sglang_dspark.policy.rank import kth_largest
from sglang_dspark.policy.record import (
    RULE,
    SURVIVAL_FLOOR,
    Budget,
    Engine,
    Load,
    Rule,
    request_factor,
    write_scores,
)


def compile_rule(policy: Policy, engine: Engine) -> Rule:
    """Bind a policy to a server.

    Raises:
        InputError: gamma outside 1..16, a captured size beyond MAX_TOKENS, more than 1,024 requests, a family that
            needs a cost belief without one, or one whose ``compute_budget`` is not compiled.
    """
    if not 1 <= engine.gamma <= MAX_GAMMA:
        raise InputError(f"engine: gamma: {engine.gamma} is not supported; use 1 to {MAX_GAMMA}")
    if len(engine.tiers) and engine.tiers[-1] > MAX_TOKENS:
        raise InputError(f"engine: tiers: {engine.tiers[-1]} captured tokens; capture at most {MAX_TOKENS}")
    if not 1 <= engine.max_requests <= MAX_REQUESTS:
        raise InputError(f"engine: max_requests: {engine.max_requests} is not supported; use 1 to {MAX_REQUESTS}")
    if policy.needs_belief and engine.belief is None:
        raise InputError(f"policy: family: '{policy.family}' needs a cost belief; give a cost table")
    rule = np.zeros(1, RULE)
    record = rule[0]
    record["compute_budget"] = address(policy)
    record["gamma"] = record["max_length"] = engine.gamma
    record["off_above"] = math.inf
    record["weight"] = 1.0
    if len(engine.tiers):
        record["last_tier"] = engine.tiers[-1]
        fitting = np.arange(engine.tiers[-1] + 1)
        record["padded"][: len(fitting)] = engine.tiers[np.searchsorted(engine.tiers, fitting)]
    record["max_requests"] = engine.max_requests
    if engine.belief is not None:
        times = engine.belief.step_times()
        record["requests_s"], record["tokens_s"], record["is_rate"] = times.requests_s, times.tokens_s, times.is_rate
        record["rest_s"] = times.rest_s
        if times.eager_s is not None:
            record["knows_eager"], record["eager_s"] = True, times.eager_s
    record["counts_prompts"] = policy.counts_prompts
    policy.write(record)
    return rule


def survival(confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running product of confidences, float32 [R, gamma], accumulated in double as ``torch.cumprod`` does on a CPU."""
    return np.cumprod(confidence, axis=1, dtype=np.float64).astype(np.float32)


def budget(rule: Rule, lagged: NDArray[np.float32], load: Load) -> Budget:
    """First stage, on the host: the budget of a step.

    Args:
        lagged: float32 [R, gamma], survivals one or two steps old; 1 for a request without a fresh confidence.

    Returns:
        The step's padded size, the drafts it may verify, and whether to draft at all.
    """
    return Budget(*compute_budget(rule, lagged, load.context, load.slo_class))


def lengths(rule: Rule, current: NDArray[np.float32], load: Load, cap: int) -> NDArray[np.int64]:
    """Second stage, on the device: admit the best drafts up to the cap, by rank of their score.

    Args:
        current: float32 [R, gamma], this step's survivals.
        cap: ``Budget.cap`` of this step.

    Returns:
        int64 [R], drafts admitted (anchor not counted), 0..gamma.
    """
    out = np.empty(current.shape[0], np.int64)
    admit(rule, current, load.context, load.slo_class, cap, out)
    return out


@njit(cache=True)
def compute_budget(
    rule: Rule, lagged: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
) -> tuple[int, int, bool]:
    """Compiled form of :func:`budget`: (tier, cap, draft)."""
    record = rule[0]
    requests = lagged.shape[0]
    if requests == 0 or requests > record.off_above:
        return pad(rule, requests, requests), 0, False
    if not fits(rule, requests, requests):
        return _past_graphs(rule, lagged)
    least, most = requests * record.min_length, requests * record.max_length
    cap = min(max(family_budget(rule, lagged, context, slo_class), least), most)
    if record.last_tier > 0:
        cap = min(cap, record.last_tier - requests)
    tier = pad(rule, requests, requests + cap)
    if record.fill:
        cap = min(tier - requests, most)
    return tier, cap, True


@njit(cache=True)
def compute_budget_beside_prompts(
    rule: Rule,
    lagged: NDArray[np.float32],
    context: NDArray[np.int64],
    slo_class: NDArray[np.int64],
    prompt_tokens: int,
) -> tuple[int, int, bool]:
    """:func:`compute_budget` in an engine whose decoding steps carry prompt tokens too: (tier, cap, draft).

    A family that counts prompts takes the budget with the highest expected throughput at the padded size of the whole
    step, knows what an eager step costs, and always drafts (vLLM ``AdaptiveVerificationManager.get_num_tokens``).

    Args:
        lagged: float32 [R, gamma], survivals one step old.
        prompt_tokens: Prompt tokens of the same step.
    """
    record = rule[0]
    if not record.counts_prompts:
        return compute_budget(rule, lagged, context, slo_class)
    requests = lagged.shape[0]
    scores = np.sort(lagged[:, : record.gamma].ravel())[::-1]
    tokens = requests + prompt_tokens
    best, cap = 0.0, 0
    accepted = float(requests)
    for k in range(len(scores) + 1):
        if k > 0:
            accepted += scores[k - 1]
        padded = min(pad(rule, requests, tokens + k), MAX_TOKENS)
        eager = record.knows_eager == 1 and not fits(rule, requests, padded)
        throughput = rate(record, accepted, requests, padded, eager)
        if throughput > best:
            best, cap = throughput, k
    return pad(rule, requests, requests + cap), cap, True


@njit(cache=True)
def _past_graphs(rule: Rule, lagged: NDArray[np.float32]) -> tuple[int, int, bool]:
    """Budget of a step with more requests than any captured graph takes: (tokens, cap, draft).

    The family's budget is for captured steps, and SGLang drops its own there (``ragged_layout_exceeds_captured_grid``)
    and verifies whole blocks. So does this without a belief of eager steps. By one, it takes the cap with the most
    expected tokens per second, or rests the drafter where that gives more: an eager step may be bound by its launches,
    which whole blocks share, or by its work.
    """
    record = rule[0]
    requests = lagged.shape[0]
    if not record.knows_eager:
        return requests * (record.gamma + 1), requests * record.gamma, True
    survivals = record.keys.view(np.float32)
    candidates = 0
    for r in range(requests):
        for j in range(record.gamma):
            if not lagged[r, j] >= SURVIVAL_FLOOR:
                break
            survivals[candidates] = lagged[r, j]
            candidates += 1
    cap, drafting = best_budget(rule, requests, candidates, True)
    if requests / (record.rest_s[requests] + record.eager_s[requests]) > drafting:
        return requests, 0, False
    return requests + cap, cap, True


@njit(cache=True)
def drops_schedule(rule: Rule, requests: int, cap: int) -> bool:
    """Whether a step verifies whole blocks eagerly, which takes no lengths, as SGLang does past its graphs."""
    return bool(cap == requests * rule[0].gamma and not fits(rule, requests, requests + cap))


@njit(cache=True)
def limits(rule: Rule, requests: int) -> tuple[int, int]:
    """Fewest and most drafts that a request of a step may verify: the policy's, or any past the captured graphs."""
    record = rule[0]
    if not fits(rule, requests, requests):
        return 0, int(record.gamma)
    return int(record.min_length), int(record.max_length)


@njit(cache=True)
def pad(rule: Rule, requests: int, tokens: int) -> int:
    """The captured size that a step's ``tokens`` are padded to, or ``tokens`` themselves where it runs eagerly."""
    record = rule[0]
    if requests > record.max_requests or tokens > record.last_tier:
        return tokens
    return int(record.padded[tokens])


@njit(cache=True)
def fits(rule: Rule, requests: int, tokens: int) -> bool:
    """Whether a step can run without leaving the captured graphs; true where nothing is captured."""
    record = rule[0]
    return bool(record.last_tier == 0 or (requests <= record.max_requests and tokens <= record.last_tier))


@njit(cache=True)
def admit(
    rule: Rule,
    current: NDArray[np.float32],
    context: NDArray[np.int64],
    slo_class: NDArray[np.int64],
    cap: int,
    out: NDArray[np.int64],
) -> None:
    """Compiled form of :func:`lengths`, into ``out`` int64 [R]."""
    record = rule[0]
    requests = current.shape[0]
    least, last = limits(rule, requests)
    first = least if requests * least <= cap else 0
    left = cap - requests * first
    candidates = write_scores(rule, current, context, slo_class, first, last)
    out[:requests] = first
    if left <= 0:
        return
    keys = record.keys
    if left >= candidates:
        threshold, ties = np.int32(-1), 0
    else:
        key, above = kth_largest(keys, candidates, left, record.counts, record.scratch)
        threshold, ties = np.int32(key), left - above
    scores = keys.view(np.float32)
    n = 0
    tied_to = -1
    for r in range(requests):
        length = first
        for j in range(first, last):
            if not current[r, j] >= SURVIVAL_FLOOR:
                break
            if keys[n] > threshold:
                length = j + 1
            elif keys[n] == threshold:
                tied_to = max(tied_to, j)
            n += 1
        out[r] = length
    # Ties at the threshold go by position, then by request.
    for j in range(first, tied_to + 1):
        for r in range(requests):
            if ties == 0:
                return
            if out[r] == j and current[r, j] >= SURVIVAL_FLOOR:
                factor = request_factor(record, context[r], slo_class[r])
                scores[0] = factor * current[r, j]
                if keys[0] == threshold:
                    out[r] = j + 1
                    ties -= 1
