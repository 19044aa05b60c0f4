"""KV memory for the next round, and retraction of requests when the pool is full."""

from __future__ import annotations

from dspark_simulator.engines.slots import abort, give_back, grow, remove
from dspark_simulator.state import Record
from sglang_dspark.jit import njit

LEAST_OUTPUT, LAST_ARRIVED = 0, 1


@njit(cache=True)
def make_room(state: Record, queue: Record, server: Record, metrics: Record, order: int) -> int:
    """Retract requests until the pool can hold the next round of the others, then allocate it.

    Args:
        order: LEAST_OUTPUT retracts the request with the fewest output tokens, the longest prompt among equals and the
            last in the batch among those, to the end of the queue, where a full queue refuses it
            (``ScheduleBatch.retract_decode``, ``_get_decode_retraction_order``, ``Scheduler._abort_on_queued_limit``);
            LAST_ARRIVED the youngest, to its front (vLLM ``Scheduler.schedule``, ``_preempt_request``).

    Returns:
        Aborted requests: one that does not fit alone, and those refused by a full queue.
    """
    s, flags, m = state[0], server[0], metrics[0]
    aborted = 0
    while s.running > 0 and not has_room(state, server):
        # vLLM counts the request whose prompt is being prefilled among the running ones; SGLang does not.
        alone = s.running == 1 and (order == LEAST_OUTPUT or not s.partial)
        victim = _victim(state, order)
        m.retracted += not alone
        if alone or s.queued >= flags.max_queued:
            abort(metrics, server, s.id[victim], s.slo_class[victim])
            remove(state, victim)
            aborted += 1
        else:
            give_back(state, queue, victim, order == LAST_ARRIVED)
    reserve(state, server)
    return aborted


@njit(cache=True)
def has_room(state: Record, server: Record) -> bool:
    """Whether the pool can hold the next round of all running requests (``ScheduleBatch.check_decode_mem``)."""
    s, flags = state[0], server[0]
    reserve, needed = flags.kv_reserve, 0
    for r in range(s.running):
        needed += max(0, s.context[r] + reserve - s.allocated[r])
    return bool(s.kv_used + needed <= flags.kv_capacity)


@njit(cache=True)
def reserve(state: Record, server: Record) -> None:
    """Allocate the next round of every running request."""
    s, more = state[0], server[0].kv_reserve
    for r in range(s.running):
        grow(state, r, s.context[r] + more)


@njit(cache=True)
def _victim(state: Record, order: int) -> int:
    s = state[0]
    victim = 0
    for r in range(1, s.running):
        if order == LAST_ARRIVED:
            worse = s.id[r] > s.id[victim]
        elif s.produced[r] != s.produced[victim]:
            worse = s.produced[r] < s.produced[victim]
        elif s.prompt[r] != s.prompt[victim]:
            worse = s.prompt[r] > s.prompt[victim]
        else:
            worse = s.order[r] > s.order[victim]
        if worse:
            victim = r
    return victim
