"""Rules that make up an engine of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class CaptureFlags(NamedTuple):
    """The server flags that decide which steps are captured as CUDA graphs.

    Attributes:
        requests: ``capture_requests``.
        batches: ``cuda_graph_bs_decode``.
        tokens: ``capture_tokens``.
        running: ``max_running_requests``.
        gamma: Drafts a block; 0 without speculation.
    """

    requests: int
    batches: tuple[int, ...] | None
    tokens: int
    running: int
    gamma: int


class Rules(NamedTuple):
    """Rules in which engines differ.

    Attributes:
        receive: ``(prompt, output, max_new, kv_tokens) -> (prompt, output, max_new)``: what the scheduler makes of a
            request on arrival.
        step: Forms and runs the next step; compiled.
        tiers: Captured step sizes in verify tokens, int64 ascending; empty where nothing is captured.
        captured_requests: Largest batch that runs captured; every batch counts as captured where nothing is.
        kv_reserve: KV tokens that a running request holds beyond its context under speculation, by gamma.
        min_free_slots: Default of the free slots that a prefill waits for under speculation, by running limit.
        mixes: Decoding steps carry prompt tokens too.
        pool_by_flags: Server flags take memory from the KV pool; otherwise the pool is taken as stated.
        lacks: Flags of the server that the engine does not have.
    """

    receive: Callable[[int, int, int, int], tuple[int, int, int]]
    step: Callable[..., tuple[float, int]]
    tiers: Callable[[CaptureFlags], NDArray[np.int64]]
    captured_requests: Callable[[CaptureFlags], int]
    kv_reserve: Callable[[int], int]
    min_free_slots: Callable[[int], int]
    mixes: bool = False
    pool_by_flags: bool = True
    lacks: tuple[str, ...] = ()
