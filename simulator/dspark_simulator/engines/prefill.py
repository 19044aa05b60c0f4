"""Prefill of prompts: scheduling chunks and starting to decode completed prompts."""

from __future__ import annotations

from dspark_simulator.engines.slots import abort, emit, grow
from dspark_simulator.state import Record
from sglang_dspark.jit import njit


@njit(cache=True)
def take(state: Record, slot: int, tokens: int) -> None:
    """Schedule ``tokens`` more prompt tokens of ``slot`` for this step and allocate their KV."""
    s = state[0]
    s.take[slot] = tokens
    s.prefill_tokens += tokens
    grow(state, slot, s.context[slot] + tokens)


@njit(cache=True)
def prompt_pairs(state: Record, joined: int) -> float:
    """Query-key pairs of this step's prefill: new tokens x (context before the chunk + half the chunk)."""
    s = state[0]
    pairs = 0.0
    for slot in range(s.running, s.running + joined):
        pairs += s.take[slot] * (s.context[slot] + 0.5 * s.take[slot])
    return pairs


@njit(cache=True)
def finish_prefill(state: Record, server: Record, metrics: Record, joined: int, end_s: float) -> None:
    """End the step's prefill of the ``joined`` slots behind the running ones; completed prompts start to decode."""
    s, m = state[0], metrics[0]
    m.prefilled += s.prefill_tokens
    first, whole = s.running, 0
    for slot in range(first, first + joined):
        s.context[slot] += s.take[slot]
        if s.context[slot] == s.target[slot]:
            whole += 1
            if s.output[slot] == 0:
                abort(metrics, server, s.id[slot], s.slo_class[slot])
            else:
                emit(state, metrics, server, slot, 1, end_s)
    # Only the last prompt can be incomplete.
    s.running += whole
    s.partial = joined - whole
