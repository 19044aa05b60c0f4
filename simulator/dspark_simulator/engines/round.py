"""One decoding round of the running requests: draft, schedule, verify, accept. The same for every engine."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dspark_simulator import draws
from dspark_simulator.acceptance import propose
from dspark_simulator.costs.numeric import draft_s, host_s, inject_s, verify_s
from dspark_simulator.engines.slots import emit
from dspark_simulator.state import COMPACT, MAX_LAG, STATIC, Record
from sglang_dspark.policy import Argmax
from sglang_dspark.policy.belief import MAX_TOKENS
from sglang_dspark.policy.record import Rule
from sglang_dspark.policy.rule import admit, fits, pad, plan

_ARGMAX = Argmax.code


@njit(cache=True)
def adaptive(rule: Rule, lagged: NDArray[np.float32], prompt_tokens: int) -> tuple[int, int, bool]:
    """vLLM's budget (``AdaptiveVerificationManager.get_num_tokens``): it counts the prompts of the step, knows what an
    eager step costs, and always drafts.

    Args:
        lagged: float32 [R, gamma], survivals one step old.
        prompt_tokens: Prompt tokens of the same step.
    """
    record = rule[0]
    requests = lagged.shape[0]
    scores = np.sort(lagged.ravel())[::-1]
    tokens = requests + prompt_tokens
    best, cap = 0.0, 0
    accepted = float(requests)
    for k in range(len(scores) + 1):
        if k > 0:
            accepted += scores[k - 1]
        padded = min(pad(rule, requests, tokens + k), MAX_TOKENS)
        rate = accepted / (record.requests_s[requests] + record.tokens_s[padded])
        if rate > best:
            best, cap = rate, k
    return pad(rule, requests, requests + cap), cap, True


@njit(cache=True)
def decide(
    state: Record, server: Record, rule: Rule, cost: Record, acceptance: Record, metrics: Record
) -> tuple[int, bool]:
    """Drafts and sets each request's verify length (``state.length``).

    Returns:
        Verify tokens that the step is padded to, and whether the drafter ran.
    """
    s, flags, m = state[0], server[0], metrics[0]
    running, gamma = s.running, flags.gamma
    context, slo_class, length = s.context[:running], s.slo_class[:running], s.length[:running]
    s.round += 1
    current = s.survival[s.round % (MAX_LAG + 1), :running]
    whole = running * (gamma + 1)
    if flags.mode == STATIC or flags.oracle:
        tier, s.cap, draft = pad(rule, running, whole), whole - running, True
    else:
        lagged = s.survival[(s.round - flags.lag) % (MAX_LAG + 1), :running]
        for r in range(running):
            if s.rounds[r] < flags.lag:
                lagged[r, :] = np.float32(1.0)
        if flags.mixes and rule[0].family == _ARGMAX:
            tier, s.cap, draft = adaptive(rule, lagged[:, :gamma], s.prefill_tokens)
        else:
            tier, s.cap, draft = plan(rule, lagged, context, slo_class)
    # Upstream drops its schedule past the last captured graph and verifies whole blocks eagerly
    # (``ragged_layout_exceeds_captured_grid``).
    dropped = flags.stock == 1 and flags.speculative == 1 and not fits(rule, running, tier)
    draft = draft or dropped
    for r in range(running):
        if draft:
            key = draws.stream(flags.seed, s.id[r])
            s.drafts_accepted[r] = propose(acceptance, key, s.slo_class[r], s.produced[r], gamma, current[r])
            s.rounds[r] += 1
        else:
            s.drafts_accepted[r] = 0
            s.rounds[r] = 0
    if not draft:
        length[:] = 0
    elif flags.oracle:
        tier = _foresee(state, rule, cost)
    elif flags.mode == STATIC or dropped:
        length[:] = gamma
        tier = pad(rule, running, whole)
    else:
        admit(rule, current, context, slo_class, s.cap, length)
        if flags.mode != COMPACT:
            tier = pad(rule, running, whole)
    s.tier = tier
    m.drafted += running * gamma if draft else 0
    return tier, draft


@njit(cache=True)
def _foresee(state: Record, rule: Rule, cost: Record) -> int:
    """The oracle: knows what would be accepted and maximises tokens per second of this step; returns the tier."""
    s, record = state[0], rule[0]
    running = s.running
    context = 0
    acceptable = 0
    for r in range(running):
        context += s.context[r]
        acceptable += s.drafts_accepted[r]
    best, best_tier = 0.0, pad(rule, running, running)
    for i in range(record.tiers if record.tiers > 0 else acceptable + 1):
        tier = record.tier[i] if record.tiers > 0 else running + i
        if tier < running:
            continue
        drafts = min(acceptable, tier - running)
        parts_s = (
            draft_s(cost, running) + verify_s(cost, tier, True, context, running) + inject_s(cost, running + drafts)
        )
        rate = (running + drafts) / (host_s(cost, running, True) + parts_s)
        if rate > best:
            best, best_tier = rate, tier
        if drafts == acceptable:
            break
    left = best_tier - running
    s.cap = min(left, acceptable)
    for r in range(running):
        s.length[r] = min(left, s.drafts_accepted[r])
        left -= s.length[r]
    return int(best_tier)


@njit(cache=True)
def round_s(
    state: Record, server: Record, cost: Record, requests: int, tokens: int, captured: bool, draft: bool
) -> float:
    """Seconds of a step that runs ``tokens`` tokens (padding included) for the running requests and those that join.

    Args:
        requests: Both together.
    """
    s = state[0]
    running = s.running
    context, real = 0, 0
    for r in range(running):
        context += s.context[r]
        real += s.length[r] + 1
    flags = server[0]
    time_s = host_s(cost, requests, flags.speculative == 1)
    time_s += verify_s(cost, tokens, captured, context, running)
    if draft:
        time_s += draft_s(cost, running)
    if flags.speculative:
        time_s += inject_s(cost, real)
    return float(time_s)


@njit(cache=True)
def accept(state: Record, server: Record, metrics: Record, end_s: float) -> None:
    """Hands out the accepted drafts and the target's own token of every running request at ``end_s``."""
    s, m = state[0], metrics[0]
    m.rounds += 1
    m.request_rounds += s.running
    m.padded += s.tier
    for r in range(s.running):
        length = s.length[r]
        accepted = min(length, s.drafts_accepted[r]) + 1
        m.verified += length + 1
        m.verify_length[length] += 1
        m.accepted_length[accepted] += 1
        tokens = min(accepted, s.output[r] - s.produced[r])
        s.context[r] += tokens
        emit(state, metrics, server, r, tokens, end_s)


@njit(cache=True)
def count_step(state: Record, metrics: Record, running: int, time_s: float) -> None:
    """Counts a step of ``time_s`` seconds with ``running`` requests in it, whatever it was."""
    s, m = state[0], metrics[0]
    m.steps += 1
    m.busy_s += time_s
    m.running_s += running * time_s
    m.kv_s += s.kv_used * time_s
