"""Decoding round of the running requests, shared by all engines: draft, schedule, verify, accept."""

from __future__ import annotations

from dspark_simulator import draws
from dspark_simulator.acceptance_model import propose
from dspark_simulator.costs.numeric import draft_s, host_s, inject_s, verify_s
from dspark_simulator.engines import lag_ring
from dspark_simulator.engines.slots import emit
from dspark_simulator.state import CAP_ACCEPT, STATIC, Record
from sglang_dspark.jit import njit
from sglang_dspark.policy.record import Rule
from sglang_dspark.policy.rule import admit, compute_budget, compute_budget_beside_prompts, drops_schedule, fits, pad


@njit(cache=True)
def draft_and_schedule(
    state: Record, server: Record, rule: Rule, cost: Record, acceptance: Record, metrics: Record
) -> tuple[int, int]:
    """Draft a block and set the verify length of each request (``state.length``).

    Args:
        cost: Records of :data:`COST` for drafts of ``gamma`` positions and, with an oracle, of fewer.

    Returns:
        Verify tokens of the padded step, and drafted positions of each request (0 for a rest).
    """
    s, flags, m = state[0], server[0], metrics[0]
    running, gamma = s.running, flags.gamma
    context, slo_class, length = s.context[:running], s.slo_class[:running], s.length[:running]
    current = lag_ring.current(state)
    whole = running * (gamma + 1)
    if flags.mode == STATIC or flags.oracle:
        tier, s.cap, draft = pad(rule, running, whole), whole - running, True
    else:
        lagged = lag_ring.lagged(state, flags.lag)
        if flags.mixes:
            tier, s.cap, draft = compute_budget_beside_prompts(rule, lagged, context, slo_class, s.prefill_tokens)
        else:
            tier, s.cap, draft = compute_budget(rule, lagged, context, slo_class)
    # Beyond the last captured graph, stock SGLang drops its schedule and verifies whole blocks eagerly
    # (``ragged_layout_exceeds_captured_grid``).
    dropped = flags.stock == 1 and flags.speculative == 1 and not fits(rule, running, tier)
    draft = draft or dropped
    if draft:
        lag_ring.advance(state)
    positions = gamma if draft else 0
    for r in range(running):
        if draft:
            key = draws.stream(flags.seed, s.id[r])
            s.drafts_accepted[r] = propose(acceptance, key, s.slo_class[r], s.produced[r], gamma, current[r])
            s.drafts[r] += 1
        else:
            s.drafts_accepted[r] = 0
    if flags.oracle:
        tier, positions = _foresee(state, rule, cost, gamma)
    elif not draft:
        length[:] = 0
    elif flags.mode == STATIC or dropped or drops_schedule(rule, running, s.cap):
        length[:] = gamma
        tier = pad(rule, running, whole)
    else:
        admit(rule, current, context, slo_class, s.cap, length)
        if not fits(rule, running, tier):
            # An eager step is not padded.
            tier = running + length.sum()
    if flags.mode == CAP_ACCEPT and not flags.oracle:
        # Whole blocks run at any verify lengths; a rest saves the draft only.
        tier = pad(rule, running, whole)
    s.tier = tier
    m.drafted += running * positions
    return tier, positions


@njit(cache=True)
def _foresee(state: Record, rule: Rule, cost: Record, gamma: int) -> tuple[int, int]:
    """Step oracle: set the lengths with the most tokens per second, given the drafts that would be accepted.

    It searches a rest and drafts of as many positions as ``cost`` has records for, each with every possible number of
    verify tokens, captured or eager.

    Returns:
        Verify tokens, and drafted positions.
    """
    s = state[0]
    running = s.running
    context = 0
    for r in range(running):
        context += s.context[r]
    best, best_tokens, best_positions = 0.0, 0, 0
    for i in range(len(cost) + 1):
        positions = gamma - i if i < len(cost) else 0
        acceptable = 0
        for r in range(running):
            acceptable += min(s.drafts_accepted[r], positions)
        before_s = host_s(cost, running, True) + (draft_s(cost, running, i) if positions else 0.0)
        most = running * (positions + 1)
        tokens = pad(rule, running, running)
        while True:
            accepted = min(acceptable, tokens - running)
            captured = fits(rule, running, tokens)
            verified = accepted if captured else tokens - running
            time_s = before_s + verify_s(cost, tokens, captured, context, running) + inject_s(cost, running + verified)
            if (running + accepted) / time_s > best:
                best, best_tokens, best_positions = (running + accepted) / time_s, tokens, positions
            if tokens >= most:
                break
            tokens = pad(rule, running, tokens + 1)
    s.cap = left = best_tokens - running
    for r in range(running):
        s.length[r] = min(left, s.drafts_accepted[r], best_positions)
        left -= s.length[r]
    if not fits(rule, running, best_tokens):
        # A captured step is padded; the tokens of an eager one must all be drafted.
        for r in range(running):
            more = min(left, best_positions - s.length[r])
            s.length[r] += more
            left -= more
    return best_tokens, best_positions


@njit(cache=True)
def round_s(
    state: Record, server: Record, cost: Record, requests: int, tokens: int, captured: bool, positions: int
) -> float:
    """Seconds of a step of ``tokens`` tokens (padding included) for the running and the joining requests.

    Args:
        cost: As in :func:`draft_and_schedule`.
        requests: Running and joining requests together.
        positions: Drafted positions of each running request.
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
    if positions:
        time_s += draft_s(cost, running, flags.gamma - positions)
    if flags.speculative:
        time_s += inject_s(cost, real)
    return float(time_s)


@njit(cache=True)
def accept(state: Record, server: Record, metrics: Record, end_s: float) -> None:
    """Emit the accepted drafts and the target's own token of every running request at ``end_s``."""
    s, m = state[0], metrics[0]
    running, verified = s.running, 0
    m.rounds += 1
    m.request_rounds += running
    m.padded += s.tier
    for r in range(running):
        length = s.length[r]
        accepted = min(length, s.drafts_accepted[r]) + 1
        verified += length + 1
        m.verify_length[length] += 1
        m.accepted_length[accepted] += 1
        tokens = min(accepted, s.output[r] - s.produced[r])
        s.context[r] += tokens
        emit(state, metrics, server, r, tokens, end_s)
    m.verified += verified


@njit(cache=True)
def count_step(state: Record, metrics: Record, running: int, time_s: float) -> None:
    """Count a step of any kind that takes ``time_s`` seconds with ``running`` requests."""
    s, m = state[0], metrics[0]
    m.steps += 1
    m.busy_s += time_s
    m.running_s += running * time_s
    m.kv_s += s.kv_used * time_s
