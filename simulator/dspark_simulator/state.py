"""State of one simulated replica: a structure of arrays in one record, which numba unboxes in one piece."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.histogram import BINS
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS
from sglang_dspark.policy.record import MAX_CLASSES

MAX_LAG = 2


class Waiting(NamedTuple):
    """A request in the waiting queue; one that was retracted keeps its output and its times.

    Attributes:
        output: Tokens that it will write; 0 for a request that the engine answers with an error.
        max_new: Bound of ``output`` that the engine admits by.
        cached: Prompt tokens in the prefix cache.
        produced: Output tokens that its client has.
        first_s, last_s: When its client got the first and the last of them.
    """

    id: int
    arrival_s: float
    prompt: int
    output: int
    max_new: int
    slo_class: int
    cached: int
    produced: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


def _typed(names: Iterable[str]) -> list[tuple[str, str]]:
    """Fields of a record: times are floats, everything else is a count."""
    return [(name, "f8" if name.endswith("_s") else "i8") for name in names]


QUEUED = np.dtype(_typed(Waiting._fields), align=True)

# Fields that a request takes from the queue into a slot and back, and all that it has in a slot.
CARRIED = ("id", "arrival_s", "prompt", "output", "max_new", "slo_class", "produced", "first_s", "last_s")
HELD = (
    *CARRIED,
    # Place in SGLang's running batch; a freed slot takes the last request, so slots do not keep it.
    "order",
    # KV tokens that are computed, that the pool holds for it, and at which its prefill is complete.
    "context",
    "allocated",
    "target",
    # Blocks drafted for the request since it took the slot.
    "drafts",
)

# Flags of the server, fixed during a run. The class arrays are by index of the workload's classes.
SERVER = np.dtype(
    [
        ("speculative", "i8"),
        ("gamma", "i8"),
        ("mode", "i8"),
        ("lag", "i8"),
        ("stock", "i8"),
        ("oracle", "i8"),
        ("mixes", "i8"),
        ("max_running", "i8"),
        ("chunk_tokens", "i8"),
        ("max_prefill_tokens", "i8"),
        ("mixed_chunk", "i8"),
        ("min_free_slots", "i8"),
        ("prefill_interval", "i8"),
        ("prefill_interval_min_running", "i8"),
        ("prefill_requests", "i8"),
        ("max_queued", "i8"),
        ("kv_capacity", "i8"),
        ("kv_reserve", "i8"),
        ("ratio_first", "f8"),
        ("ratio_least", "f8"),
        ("ratio_decay", "f8"),
        ("seed", "i8"),
        ("measure_from", "i8"),
        ("measure_to", "i8"),
        ("ignore_eos", "i8", (MAX_CLASSES,)),
        ("ttft_s", "f8", (MAX_CLASSES,)),
        ("tpot_s", "f8", (MAX_CLASSES,)),
    ],
    align=True,
)

# Slots 0..running-1 decode; if ``partial``, slot ``running`` holds the request whose prompt is prefilled in chunks.
STATE = np.dtype(
    [
        ("running", "i8"),
        ("partial", "i8"),
        ("full", "i8"),
        ("kv_used", "i8"),
        ("ratio", "f8"),
        # Steps that drafted; ``engines.lag_ring`` keeps the survivals of the last ones.
        ("round", "i8"),
        ("interval_left", "i8"),
        ("order_front", "i8"),
        ("order_back", "i8"),
        ("queue_head", "i8"),
        ("queued", "i8"),
        # The last step, for the step log.
        ("kind", "i8"),
        ("cap", "i8"),
        ("tier", "i8"),
        ("prefill_tokens", "i8"),
        # By slot: the request, and what this step does with it.
        *((*field, (MAX_REQUESTS,)) for field in _typed((*HELD, "take", "drafts_accepted", "length"))),
        ("survival", "f4", (MAX_LAG + 1, MAX_REQUESTS, MAX_GAMMA)),
    ],
    align=True,
)

METRICS = np.dtype(
    [
        ("steps", "i8"),
        ("rounds", "i8"),
        ("eager", "i8"),
        ("retracted", "i8"),
        ("tokens", "i8"),
        ("prefilled", "i8"),
        ("drafted", "i8"),
        ("verified", "i8"),
        ("padded", "i8"),
        ("request_rounds", "i8"),
        ("busy_s", "f8"),
        ("running_s", "f8"),
        ("kv_s", "f8"),
        ("accepted_length", "i8", (MAX_GAMMA + 2,)),
        ("verify_length", "i8", (MAX_GAMMA + 1,)),
        ("aborted", "i8", (MAX_CLASSES,)),
        ("finished", "i8", (MAX_CLASSES,)),
        ("in_ttft", "i8", (MAX_CLASSES,)),
        ("good", "i8", (MAX_CLASSES,)),
        ("good_tokens", "i8", (MAX_CLASSES,)),
        ("ttft_sum_s", "f8", (MAX_CLASSES,)),
        ("tpot_sum_s", "f8", (MAX_CLASSES,)),
        ("tpot_count", "i8", (MAX_CLASSES,)),
        ("ttft", "i8", (MAX_CLASSES, BINS)),
        ("tpot", "i8", (MAX_CLASSES, BINS)),
        ("itl", "i8", (MAX_CLASSES, BINS)),
    ],
    align=True,
)

# Verify modes, in the order of ``SGLANG_RAGGED_VERIFY_MODE``.
STATIC, CAP_ACCEPT, COMPACT = 0, 1, 2

# Kinds of steps.
IDLE, PREFILL, DECODE, MIXED = 0, 1, 2, 3

Record = NDArray[Any]
