"""The state of one simulated replica, structure of arrays in one record, so that numba unboxes it in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.histogram import BINS
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS
from sglang_dspark.policy.record import MAX_CLASSES

MAX_LAG = 2

# A request in the waiting queue. ``max_new`` bounds ``output`` and is what the engine admits by; ``output`` 0 is a
# request that the engine answers with an error. ``produced`` and the two times are kept by one that was retracted.
QUEUED = np.dtype(
    [
        ("id", "i8"),
        ("arrival_s", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("max_new", "i8"),
        ("slo_class", "i8"),
        ("cached", "i8"),
        ("produced", "i8"),
        ("first_s", "f8"),
        ("last_s", "f8"),
    ],
    align=True,
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

# Slots 0..running-1 decode; if ``partial``, slot ``running`` holds the request whose prompt is prefilled in chunks. A
# freed slot takes the last request, so ``order`` keeps the order of SGLang's running batch.
STATE = np.dtype(
    [
        ("running", "i8"),
        ("partial", "i8"),
        ("full", "i8"),
        ("kv_used", "i8"),
        ("ratio", "f8"),
        # Steps that drafted: where in the ring of survivals the last one wrote.
        ("round", "i8"),
        ("interval_left", "i8"),
        ("order_front", "i8"),
        ("order_back", "i8"),
        ("queue_head", "i8"),
        ("queued", "i8"),
        # What the last step did, for the step log.
        ("kind", "i8"),
        ("cap", "i8"),
        ("tier", "i8"),
        ("prefill_tokens", "i8"),
        ("id", "i8", (MAX_REQUESTS,)),
        ("arrival_s", "f8", (MAX_REQUESTS,)),
        ("prompt", "i8", (MAX_REQUESTS,)),
        ("output", "i8", (MAX_REQUESTS,)),
        ("max_new", "i8", (MAX_REQUESTS,)),
        ("order", "i8", (MAX_REQUESTS,)),
        ("slo_class", "i8", (MAX_REQUESTS,)),
        ("context", "i8", (MAX_REQUESTS,)),
        ("produced", "i8", (MAX_REQUESTS,)),
        ("first_s", "f8", (MAX_REQUESTS,)),
        ("last_s", "f8", (MAX_REQUESTS,)),
        ("allocated", "i8", (MAX_REQUESTS,)),
        ("target", "i8", (MAX_REQUESTS,)),
        ("take", "i8", (MAX_REQUESTS,)),
        # Blocks drafted for the request since it took the slot.
        ("drafts", "i8", (MAX_REQUESTS,)),
        ("drafts_accepted", "i8", (MAX_REQUESTS,)),
        ("length", "i8", (MAX_REQUESTS,)),
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

# What a step was.
IDLE, PREFILL, DECODE, MIXED = 0, 1, 2, 3

Record = NDArray[Any]
