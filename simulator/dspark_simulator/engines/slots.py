"""Bookkeeping of requests in a replica: into a slot, tokens out, out of the slot, back to the queue."""

from __future__ import annotations

from dspark_simulator.histogram import observe
from dspark_simulator.state import Record
from sglang_dspark.jit import njit


@njit(cache=True)
def fetch(state: Record, queue: Record, slot: int) -> None:
    """Moves the head of the waiting queue into ``slot``. Its prefix-cache hit is context that needs no prefill."""
    s = state[0]
    waiting = queue[s.queue_head]
    s.id[slot] = waiting.id
    s.arrival_s[slot] = waiting.arrival_s
    s.prompt[slot] = waiting.prompt
    s.output[slot] = waiting.output
    s.max_new[slot] = waiting.max_new
    s.slo_class[slot] = waiting.slo_class
    s.produced[slot] = waiting.produced
    s.first_s[slot] = waiting.first_s
    s.last_s[slot] = waiting.last_s
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
    """Puts the request of ``slot`` back into the queue, its output kept and its KV freed."""
    s = state[0]
    if in_front:
        s.queue_head = (s.queue_head - 1) % queue.size
        place = s.queue_head
    else:
        place = (s.queue_head + s.queued) % queue.size
    s.queued += 1
    waiting = queue[place]
    waiting.id = s.id[slot]
    waiting.arrival_s = s.arrival_s[slot]
    waiting.prompt = s.prompt[slot]
    waiting.output = s.output[slot]
    waiting.max_new = s.max_new[slot]
    waiting.slo_class = s.slo_class[slot]
    waiting.cached = 0
    waiting.produced = s.produced[slot]
    waiting.first_s = s.first_s[slot]
    waiting.last_s = s.last_s[slot]
    remove(state, slot)


@njit(cache=True)
def remove(state: Record, slot: int) -> None:
    """Frees a decoding slot and its KV; the last decoding request takes its place."""
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
    s.id[slot] = s.id[source]
    s.arrival_s[slot] = s.arrival_s[source]
    s.prompt[slot] = s.prompt[source]
    s.output[slot] = s.output[source]
    s.max_new[slot] = s.max_new[source]
    s.order[slot] = s.order[source]
    s.slo_class[slot] = s.slo_class[source]
    s.context[slot] = s.context[source]
    s.produced[slot] = s.produced[source]
    s.first_s[slot] = s.first_s[source]
    s.last_s[slot] = s.last_s[source]
    s.allocated[slot] = s.allocated[source]
    s.target[slot] = s.target[source]
    s.drafts[slot] = s.drafts[source]
    for lag in range(s.survival.shape[0]):
        for j in range(s.survival.shape[2]):
            s.survival[lag, slot, j] = s.survival[lag, source, j]


@njit(cache=True)
def grow(state: Record, slot: int, allocated: int) -> None:
    """Raises the KV allocation of a slot to ``allocated`` tokens; it never shrinks."""
    s = state[0]
    if allocated > s.allocated[slot]:
        s.kv_used += allocated - s.allocated[slot]
        s.allocated[slot] = allocated


@njit(cache=True)
def emit(state: Record, metrics: Record, server: Record, slot: int, tokens: int, time_s: float) -> None:
    """Hands ``tokens`` output tokens of a request to its client at ``time_s``.

    TTFT counts from arrival. An ITL is the gap since the tokens before, shared equally by the tokens that come
    together, and TPOT is (last - first) / (output - 1): both as ``sglang.bench_serving`` has them.
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
    """Counts a request that ends without its output."""
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
    """Frees the slots of requests that have all their output; returns how many."""
    s = state[0]
    done = 0
    # From the last slot down: a freed slot takes the last request, which has been looked at.
    for r in range(s.running - 1, -1, -1):
        if s.produced[r] >= s.output[r]:
            remove(state, r)
            done += 1
    return done
