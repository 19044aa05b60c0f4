"""SGLang's batch formation (0.5.23): a step is a prefill batch or a decoding round, prefill first."""

from __future__ import annotations

from numba import njit

from dspark_simulator.costs.numeric import host_s, inject_s, prefill_s
from dspark_simulator.engines.memory import LEAST_OUTPUT, make_room
from dspark_simulator.engines.prefill import finish_prefill, prompt_pairs, take
from dspark_simulator.engines.round import accept, count_step, decide, round_s
from dspark_simulator.engines.slots import fetch, sweep
from dspark_simulator.state import DECODE, IDLE, MIXED, PREFILL, Record
from sglang_dspark.policy.record import Rule
from sglang_dspark.policy.rule import fits

# ``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION`` and ``SGLANG_RETRACT_DECODE_STEPS``.
CLIP_MAX_NEW_TOKENS = 4096
RETRACT_DECODE_STEPS = 20


@njit(cache=True)
def step(
    state: Record,
    queue: Record,
    server: Record,
    rule: Rule,
    cost: Record,
    acceptance: Record,
    metrics: Record,
    now_s: float,
) -> tuple[float, int]:
    """Runs the next step (``Scheduler.get_next_batch_to_run``).

    Returns:
        Its seconds (0.0 when there is nothing to do), and how many requests it ends.
    """
    s, m = state[0], metrics[0]
    s.kind, s.prefill_tokens = IDLE, 0
    mixed = server[0].mixed_chunk == 1
    retracted = m.retracted
    gone = make_room(state, queue, server, metrics, LEAST_OUTPUT) if mixed else 0
    joined, rejected = _form_prefill(state, queue, server, metrics)
    gone += rejected
    busy = s.running
    if joined > 0:
        s.kind = MIXED if mixed and busy > 0 else PREFILL
        time_s = _prefill_s(state, server, cost, joined)
        if s.kind == MIXED:
            # ``ScheduleBatch.mix_with_running``: one token a running request, nothing drafted.
            s.length[:busy] = 0
            s.drafts_accepted[:busy] = 0
            s.rounds[:busy] = 0
            accept(state, server, metrics, now_s + time_s)
        finish_prefill(state, server, metrics, joined, now_s + time_s)
    else:
        gone += _keep_room(state, queue, server, metrics, retracted)
        busy = s.running
        if busy == 0:
            # ``Scheduler.on_idle`` resets the tracker.
            s.ratio = server[0].ratio_first
            return 0.0, gone
        s.kind = DECODE
        tier, draft = decide(state, server, rule, cost, acceptance, metrics)
        captured = fits(rule, busy, tier)
        m.eager += not captured
        time_s = round_s(state, server, cost, busy, tier, captured, draft)
        accept(state, server, metrics, now_s + time_s)
    count_step(state, metrics, busy, time_s)
    return time_s, gone + sweep(state)


@njit(cache=True)
def _prefill_s(state: Record, server: Record, cost: Record, joined: int) -> float:
    s = state[0]
    s.tier = s.prefill_tokens
    pairs = prompt_pairs(state, joined)
    if s.kind == MIXED:
        s.tier += s.running
        for r in range(s.running):
            pairs += s.context[r]
    requests = joined + (s.running if s.kind == MIXED else 0)
    time_s = host_s(cost, requests, server[0].speculative == 1) + prefill_s(cost, s.tier, pairs)
    if server[0].speculative:
        time_s += inject_s(cost, s.tier)
    return float(time_s)


@njit(cache=True)
def _keep_room(state: Record, queue: Record, server: Record, metrics: Record, retracted: int) -> int:
    """``Scheduler.update_running_batch``: retract when the pool is full, else let ``new_token_ratio`` decay.

    Args:
        retracted: Retractions up to the beginning of the step.
    """
    s, flags = state[0], server[0]
    aborted = make_room(state, queue, server, metrics, LEAST_OUTPUT)
    if metrics[0].retracted > retracted:
        # ``NewTokenRatioTracker.estimate_new_token_ratio_after_retract``
        produced, most = RETRACT_DECODE_STEPS * s.running, 1
        for r in range(s.running):
            produced += s.produced[r]
            most += _max_new(server, s.slo_class[r], s.prompt[r], s.output[r])
        s.ratio = min(1.0, produced / most)
    elif s.running > 0:
        s.ratio = max(s.ratio - flags.ratio_decay, flags.ratio_least)
    return aborted


@njit(cache=True)
def _form_prefill(state: Record, queue: Record, server: Record, metrics: Record) -> tuple[int, int]:
    """Takes prompts into the step (``Scheduler._get_new_batch_prefill_raw`` with ``PrefillAdder``).

    Returns:
        Requests in the prefill batch, and requests rejected because they cannot fit an empty pool.
    """
    s, flags, m = state[0], server[0], metrics[0]
    if (s.full or s.queued == 0) and not s.partial:
        return 0, 0
    along = s.running if flags.mixed_chunk else 0
    chunk_left, input_left = flags.chunk_tokens - along, flags.max_prefill_tokens - along
    # ``rem_total_tokens``: what is free less what the running requests are expected to write still.
    kv_left = float(flags.kv_capacity - s.kv_used)
    for r in range(s.running):
        left = _max_new(server, s.slo_class[r], s.prompt[r], s.output[r]) - s.produced[r]
        kv_left -= min(left, CLIP_MAX_NEW_TOKENS) * s.ratio
    joined, rejected = 0, 0
    if s.partial:
        slot = s.running
        tokens = min(s.target[slot] - s.context[slot], chunk_left, flags.kv_capacity - s.kv_used)
        if tokens <= 0:
            return 0, 0
        take(state, slot, tokens)
        joined = 1
        chunk_left -= tokens
        input_left -= tokens
        kv_left -= tokens
        if s.context[slot] + tokens == s.target[slot]:
            kv_left -= min(_max_new(server, s.slo_class[slot], s.prompt[slot], s.output[slot]), CLIP_MAX_NEW_TOKENS)
    while s.queued > 0 and chunk_left > 0 and input_left > 0:
        if s.running + joined >= flags.max_running:
            s.full = 1
            break
        head = queue[s.queue_head]
        target = head.prompt + head.produced
        tokens = target - min(head.cached, target - 1)
        most = _max_new(server, head.slo_class, head.prompt, head.output)
        new = min(max(most - head.produced, 0), CLIP_MAX_NEW_TOKENS)
        # Cached prompt tokens are counted as this request's own: the pool holds them while it runs.
        if target + new + 1 >= kv_left:
            if s.running + joined > 0:
                s.full = 1
                break
            m.aborted[head.slo_class] += flags.measure_from <= head.id < flags.measure_to
            s.queue_head = (s.queue_head + 1) % queue.size
            s.queued -= 1
            rejected += 1
            continue
        slot = s.running + joined
        fetch(state, queue, slot)
        taken = min(tokens, chunk_left)
        take(state, slot, taken)
        joined += 1
        chunk_left -= taken
        input_left -= taken
        kv_left -= target - tokens + taken
        if taken < tokens:
            break
        kv_left -= new + 1
    return joined, rejected


@njit(cache=True, inline="always")
def _max_new(server: Record, slo_class: int, prompt: int, output: int) -> int:
    """``max_new_tokens`` of a request: what its class asks for, but no more than fits beside its prompt
    (``Scheduler.init_req_max_new_tokens``), and never less than its output."""
    flags = server[0]
    return int(max(min(flags.max_new[slo_class], flags.kv_capacity - prompt - 2), output))
