"""Room in the KV pool for the next round: whom an engine sends back to the queue when there is none."""

from __future__ import annotations

from numba import njit

from dspark_simulator.engines.slots import give_back, grow, remove
from dspark_simulator.state import Record

LEAST_OUTPUT, LAST_ARRIVED = 0, 1


@njit(cache=True)
def make_room(state: Record, queue: Record, server: Record, metrics: Record, order: int) -> int:
    """Retracts requests until every running one can hold the next round, then allocates for it.

    Args:
        order: LEAST_OUTPUT retracts the request with the fewest output tokens, the longest prompt among equals, to
            the end of the queue (``ScheduleBatch.retract_decode``, ``_get_decode_retraction_order``); LAST_ARRIVED
            the youngest, to its front (vLLM ``Scheduler.schedule``, ``_preempt_request``).

    Returns:
        Requests aborted because one alone does not fit.
    """
    s, flags, m = state[0], server[0], metrics[0]
    aborted = 0
    while s.running > 0 and s.kv_used + _needed(state, server) > flags.kv_capacity:
        if s.running == 1 and not s.partial:
            m.aborted[s.slo_class[0]] += flags.measure_from <= s.id[0] < flags.measure_to
            remove(state, 0)
            aborted += 1
        else:
            give_back(state, queue, _victim(state, order), order == LAST_ARRIVED)
            m.retracted += 1
    for r in range(s.running):
        grow(state, r, s.context[r] + flags.kv_reserve)
    return aborted


@njit(cache=True)
def _needed(state: Record, server: Record) -> int:
    s, reserve = state[0], server[0].kv_reserve
    needed = 0
    for r in range(s.running):
        needed += max(0, s.context[r] + reserve - s.allocated[r])
    return needed


@njit(cache=True)
def _victim(state: Record, order: int) -> int:
    s = state[0]
    victim = 0
    for r in range(1, s.running):
        if order == LAST_ARRIVED:
            worse = s.id[r] > s.id[victim]
        else:
            worse = s.produced[r] < s.produced[victim] or (
                s.produced[r] == s.produced[victim] and s.prompt[r] > s.prompt[victim]
            )
        if worse:
            victim = r
    return victim
