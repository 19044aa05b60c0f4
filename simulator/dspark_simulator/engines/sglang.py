"""SGLang's batch formation (0.5.23): a step is a prefill batch or a decoding round, prefill first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.costs.numeric import host_s, inject_s, prefill_s
from dspark_simulator.engines.base import CaptureFlags, Rules
from dspark_simulator.engines.memory import LEAST_OUTPUT, has_room, make_room, reserve
from dspark_simulator.engines.prefill import finish_prefill, prompt_pairs, take
from dspark_simulator.engines.round import accept, count_step, draft_and_schedule, round_s
from dspark_simulator.engines.slots import fetch, sweep
from dspark_simulator.state import DECODE, IDLE, MIXED, PREFILL, Record
from sglang_dspark.jit import njit
from sglang_dspark.policy import sglang_tiers
from sglang_dspark.policy.record import Rule
from sglang_dspark.policy.rule import fits

# ``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION`` and ``SGLANG_RETRACT_DECODE_STEPS``.
CLIP_MAX_NEW_TOKENS = 4096
RETRACT_DECODE_STEPS = 20

# Tokens of the pool that no prompt may use: ``TpWorker.get_worker_info`` takes 1 off ``max_req_len`` and 5 more off
# ``max_req_input_len``, which a prompt must stay below.
PROMPT_MARGIN = 6


def receive(prompt: int, output: int, max_new: int, kv_tokens: int) -> tuple[int, int, int]:
    """Apply the scheduler's length limits to an arriving request.

    A prompt that can never fit is cut to one token, queued and answered with an error after its prefill
    (``validate_input_length``, ``Req.set_finish_with_abort``). ``max_new_tokens`` is lowered to the room beside the
    prompt and ends the output (``Scheduler.init_req_max_new_tokens``).

    Args:
        max_new: The client's ``max_new_tokens``; 0 stands for ``output``.
        kv_tokens: KV pool of the server.

    Returns:
        Prompt, output and ``max_new_tokens``; output 0 for a request that is answered with an error.
    """
    most = max(min(max_new or output, kv_tokens - prompt - 2), 0)
    if prompt >= kv_tokens - PROMPT_MARGIN:
        return 1, 0, most
    return prompt, min(output, most), most


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
    """Run the next step (``Scheduler.get_next_batch_to_run``).

    Returns:
        Seconds of the step (0.0 when idle), and the number of requests that it ends.
    """
    s, m, flags = state[0], metrics[0], server[0]
    s.kind, s.prefill_tokens = IDLE, 0
    joined, gone = 0, 0
    if not _defers_prefill(state, server):
        joined = _form_prefill(state, queue, server)
    busy = s.running
    if joined > 0:
        # Running requests skip the step if the prompts leave them no room.
        mixed = flags.mixed_chunk == 1 and busy > 0 and has_room(state, server)
        s.kind = MIXED if mixed else PREFILL
        s.interval_left = flags.prefill_interval
        time_s = _prefill_s(state, server, cost, joined)
        if mixed:
            # ``ScheduleBatch.mix_with_running``: one token per running request, nothing drafted.
            reserve(state, server)
            s.length[:busy] = 0
            s.drafts_accepted[:busy] = 0
            accept(state, server, metrics, now_s + time_s)
        _line_up(state, joined)
        finish_prefill(state, server, metrics, joined, now_s + time_s)
        if mixed or busy == 0 or s.partial:
            # The prefill batch becomes the running batch, whose ``batch_is_full`` is not set; filtering an incomplete
            # prompt out of it clears the flag too.
            s.full = 0
    else:
        gone += _keep_room(state, queue, server, metrics)
        busy = s.running
        if busy == 0:
            if s.queued == 0 and not s.partial:
                # ``Scheduler.on_idle`` resets the tracker.
                s.ratio = flags.ratio_first
            return 0.0, gone
        s.kind = DECODE
        tier, positions = draft_and_schedule(state, server, rule, cost, acceptance, metrics)
        captured = fits(rule, busy, tier)
        m.eager += not captured
        time_s = round_s(state, server, cost, busy, tier, captured, positions)
        accept(state, server, metrics, now_s + time_s)
    count_step(state, metrics, busy, time_s)
    return time_s, gone + sweep(state)


@njit(cache=True)
def _line_up(state: Record, joined: int) -> None:
    """Order the prefilled requests in the running batch.

    They come after the running requests (``ScheduleBatch.merge_batch``), but before those that ran in the same step
    (``mix_with_running``).
    """
    s = state[0]
    if s.kind == MIXED:
        s.order_front -= joined
        first = s.order_front
    else:
        first = s.order_back
        s.order_back += joined
    for i in range(joined):
        s.order[s.running + i] = first + i


@njit(cache=True)
def _defers_prefill(state: Record, server: Record) -> bool:
    """Whether decode steps must still pass after the last prefill (``Scheduler._should_defer_prefill``)."""
    s, flags = state[0], server[0]
    if s.interval_left == 0:
        return False
    # Without running requests the scheduler's idle loop counts the interval down at once.
    if s.running < max(flags.prefill_interval_min_running, 1):
        s.interval_left = 0
        return False
    s.interval_left -= 1
    return True


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
def _keep_room(state: Record, queue: Record, server: Record, metrics: Record) -> int:
    """Retract when the pool is full, otherwise decay ``new_token_ratio`` (``Scheduler.update_running_batch``)."""
    s, flags, m = state[0], server[0], metrics[0]
    retracted = m.retracted
    aborted = make_room(state, queue, server, metrics, LEAST_OUTPUT)
    if m.retracted > retracted or aborted > 0:
        # ``NewTokenRatioTracker.estimate_new_token_ratio_after_retract``
        produced, most = RETRACT_DECODE_STEPS * s.running, 1
        for r in range(s.running):
            produced += s.produced[r]
            most += s.max_new[r]
        s.ratio = min(1.0, produced / most)
    elif s.running > 0:
        s.ratio = max(s.ratio - flags.ratio_decay, flags.ratio_least)
    return aborted


@njit(cache=True)
def _form_prefill(state: Record, queue: Record, server: Record) -> int:
    """Schedule prompts for the step (``Scheduler._get_new_batch_prefill_raw`` with ``PrefillAdder``).

    Returns:
        Requests in the prefill batch.
    """
    s, flags = state[0], server[0]
    if s.running == 0:
        s.full = 0
    if (s.full or s.queued == 0) and not s.partial:
        return 0
    # ``MinFreeSlotsDelayer.should_delay``; an incomplete prompt continues.
    if s.running > 0 and flags.max_running - s.running < flags.min_free_slots and not s.partial:
        return 0
    along = s.running if flags.mixed_chunk else 0
    chunk_left, input_left = flags.chunk_tokens - along, flags.max_prefill_tokens - along
    kv_left = _remaining_total(state, server) - along
    joined = 0
    if s.partial:
        slot = s.running
        # An incomplete prompt must continue, since it frees its KV only at its end (``available_chunk_tokens``).
        tokens = min(chunk_left, int(kv_left)) if kv_left >= 1.0 else chunk_left
        tokens = min(tokens, s.target[slot] - s.context[slot], flags.kv_capacity - s.kv_used)
        if tokens <= 0:
            return 0
        take(state, slot, tokens)
        joined = 1
        if s.context[slot] + tokens < s.target[slot]:
            return joined
        chunk_left -= tokens
        input_left -= tokens
        kv_left -= tokens + 1 + min(s.max_new[slot], CLIP_MAX_NEW_TOKENS)
    while s.queued > 0:
        # ``PrefillAdder.budget_state`` checks memory first.
        if kv_left > 0 and (chunk_left <= 0 or input_left <= 0):
            break
        if s.running + joined >= flags.max_running:
            s.full = 1
            break
        if joined >= flags.prefill_requests:
            break
        head = queue[s.queue_head]
        target, most = head.prompt + head.produced, head.max_new
        tokens = target - min(head.cached, target - 1)
        # Cached prompt tokens count as the request's own: the pool holds them while it runs.
        if target + min(max(most - head.produced, 0), CLIP_MAX_NEW_TOKENS) + 1 >= kv_left:
            s.full = s.running + joined > 0
            break
        slot = s.running + joined
        fetch(state, queue, slot)
        taken = min(tokens, chunk_left)
        take(state, slot, taken)
        joined += 1
        if taken < tokens:
            break
        chunk_left -= taken
        input_left -= taken
        # A retracted request is admitted by its remaining output but charged for the whole of it.
        kv_left -= target + 1 + min(most, CLIP_MAX_NEW_TOKENS)
        if kv_left <= 0:
            s.full = 1
            break
    return joined


@njit(cache=True)
def _remaining_total(state: Record, server: Record) -> float:
    """Free KV tokens less the expected remaining output of the running requests (``PrefillAdder.rem_total_tokens``).

    Requests that ignore the end of text count with all of their remaining output.
    """
    s, flags = state[0], server[0]
    left = float(flags.kv_capacity - s.kv_used)
    for r in range(s.running):
        ratio = 1.0 if flags.ignore_eos[s.slo_class[r]] else s.ratio
        left -= min(s.max_new[r] - s.produced[r], CLIP_MAX_NEW_TOKENS) * ratio
    return left


def _tiers(flags: CaptureFlags) -> NDArray[np.int64]:
    if flags.requests == 0:
        return np.empty(0, np.int64)
    return sglang_tiers(_captured_requests(flags), flags.gamma, flags.batches)


def _captured_requests(flags: CaptureFlags) -> int:
    if flags.requests == 0:
        return flags.running
    return min(max(flags.batches or (flags.requests,)), flags.running)


def _kv_reserve(gamma: int) -> int:
    """``get_alloc_reserve_per_decode``"""
    return 2 * (gamma + 1)


def _min_free_slots(running: int) -> int:
    """``resolve_min_free_slots``"""
    return min(4, max(2, (running + 5) // 6)) if running >= 8 else 1


RULES = Rules(receive, step, _tiers, _captured_requests, _kv_reserve, _min_free_slots)
