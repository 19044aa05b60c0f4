"""Requests in the slots of a replica: enqueue, fetch, emit tokens, finish, give back to the queue."""

from __future__ import annotations

import numpy as np
from numba import literal_unroll

from dspark_simulator.engines import lag_ring
from dspark_simulator.histogram import observe
from dspark_simulator.state import CARRIED, HELD, QUEUED, Record, Waiting
from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_REQUESTS


def enqueue(state: Record, queue: Record, request: Waiting) -> Record:
    """Append a request to the waiting queue.

    Returns:
        The queue, QUEUED [n]: a longer copy where every running request could no longer return to the old one.
    """
    s = state[0]
    queued = int(s["queued"])
    if queued + MAX_REQUESTS >= len(queue):
        longer = np.zeros(2 * len(queue), QUEUED)
        longer[: len(queue)] = np.roll(queue, -int(s["queue_head"]))
        queue, s["queue_head"] = longer, 0
    queue[(int(s["queue_head"]) + queued) % len(queue)] = request
    s["queued"] = queued + 1
    return queue


@njit(cache=True)
def fetch(state: Record, queue: Record, slot: int) -> None:
    """Move the head of the waiting queue into ``slot``. Its prefix-cache hit is context that needs no prefill."""
    s = state[0]
    waiting = queue[s.queue_head]
    for field in literal_unroll(CARRIED):
        s[field][slot] = waiting[field]
    s.target[slot] = waiting.prompt + waiting.produced
    # A hit leaves at least the last token to compute (``Req.init_next_round_input``).
    s.context[slot] = min(waiting.cached, s.target[slot] - 1)
    s.allocated[slot] = s.context[slot]
    s.kv_used += s.context[slot]
    s.drafts[slot] = 0
    s.queue_head = (s.queue_head + 1) % queue.size
    s.queued -= 1


@njit(cache=True)
def give_back(state: Record, queue: Record, slot: int, in_front: bool) -> None:
    """Return the request of ``slot`` to the queue: keep its output and free its KV."""
    s = state[0]
    if in_front:
        s.queue_head = (s.queue_head - 1) % queue.size
        place = s.queue_head
    else:
        place = (s.queue_head + s.queued) % queue.size
    s.queued += 1
    waiting = queue[place]
    for field in literal_unroll(CARRIED):
        waiting[field] = s[field][slot]
    # Its cached prefix counted for the first prefill only.
    waiting.cached = 0
    remove(state, slot)


@njit(cache=True)
def remove(state: Record, slot: int) -> None:
    """Free a decoding slot and its KV; the last decoding request moves into the slot."""
    s = state[0]
    s.kv_used -= s.allocated[slot]
    last = s.running - 1
    _move(state, last, slot)
    if s.partial:
        _move(state, s.running, last)
    s.running = last
    s.full = 0


@njit(cache=True)
def _move(state: Record, source: int, slot: int) -> None:
    s = state[0]
    if source == slot:
        return
    for field in literal_unroll(HELD):
        s[field][slot] = s[field][source]
    lag_ring.move(state, source, slot)


@njit(cache=True)
def grow(state: Record, slot: int, allocated: int) -> None:
    """Raise the KV allocation of a slot to ``allocated`` tokens; it never shrinks."""
    s = state[0]
    if allocated > s.allocated[slot]:
        s.kv_used += allocated - s.allocated[slot]
        s.allocated[slot] = allocated


@njit(cache=True)
def emit(state: Record, metrics: Record, server: Record, slot: int, tokens: int, time_s: float) -> None:
    """Emit ``tokens`` output tokens of a request at ``time_s``.

    TTFT counts from arrival. ITL is the gap since the previous tokens, divided equally among tokens emitted together,
    and TPOT is (last - first) / (output - 1), both as in ``sglang.bench_serving``.
    """
    s, m, flags = state[0], metrics[0], server[0]
    klass = s.slo_class[slot]
    measured = flags.measure_from <= s.id[slot] < flags.measure_to
    if s.produced[slot] == 0:
        s.first_s[slot] = time_s
        gaps = tokens - 1
    else:
        gaps = tokens
    if measured and gaps > 0:
        observe(m.itl[klass], (time_s - max(s.last_s[slot], s.arrival_s[slot])) / tokens, gaps)
    s.last_s[slot] = time_s
    s.produced[slot] += tokens
    m.tokens += tokens
    if measured and s.produced[slot] >= s.output[slot]:
        _finish(state, metrics, server, slot)


@njit(cache=True)
def abort(metrics: Record, server: Record, request: int, slo_class: int) -> None:
    """Count a request that ends without its output."""
    flags = server[0]
    metrics[0].aborted[slo_class] += flags.measure_from <= request < flags.measure_to


@njit(cache=True)
def _finish(state: Record, metrics: Record, server: Record, slot: int) -> None:
    s, m, flags = state[0], metrics[0], server[0]
    klass = s.slo_class[slot]
    ttft = s.first_s[slot] - s.arrival_s[slot]
    observe(m.ttft[klass], ttft, 1)
    m.ttft_sum_s[klass] += ttft
    good = ttft <= flags.ttft_s[klass]
    m.in_ttft[klass] += good
    if s.output[slot] > 1:
        tpot = (s.last_s[slot] - s.first_s[slot]) / (s.output[slot] - 1)
        observe(m.tpot[klass], tpot, 1)
        m.tpot_sum_s[klass] += tpot
        m.tpot_count[klass] += 1
        good = good and tpot <= flags.tpot_s[klass]
    m.finished[klass] += 1
    if good:
        m.good[klass] += 1
        m.good_tokens[klass] += s.output[slot]


@njit(cache=True)
def sweep(state: Record) -> int:
    """Free the slots of finished requests and return their number."""
    s = state[0]
    done = 0
    # From the last slot down: the request that moves into a freed slot has been checked already.
    for r in range(s.running - 1, -1, -1):
        if s.produced[r] >= s.output[r]:
            remove(state, r)
            done += 1
    return done
