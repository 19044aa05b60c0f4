"""Time GPU work under a server's conditions: CUDA graph replays with a cold L2 cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

DEVICE = torch.device("cuda")
# Bytes of the copy that measures bandwidth, far more than any L2 cache.
COPIED = 1 << 30


class Timing(NamedTuple):
    """Time of one call in microseconds: median, 10th and 90th percentile."""

    median_us: float
    low_us: float
    high_us: float


def replay(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call in a CUDA graph, after three warm-up calls, and return a function that replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            call()
    except BaseException:
        torch.cuda.set_stream(before)
        raise

    def again(held: Callable[[], object] = call) -> None:
        """Replay; the default argument keeps alive the tensors that the graph writes."""
        graph.replay()

    return again


def time_call(call: Callable[[], object], repeat: int) -> Timing:
    """Time ``repeat`` calls with CUDA events, after one warm-up call.

    Other data fill the L2 cache before each call, as a model's weights do between two drafts.
    """
    cold = torch.zeros(4 * torch.cuda.get_device_properties(DEVICE).L2_cache_size, dtype=torch.int8, device=DEVICE)
    call()
    times_us: list[float] = []
    for _ in range(repeat):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Read, because written lines would be written back during the timed call.
        cold.sum()
        first.record()
        call()
        last.record()
        last.synchronize()
        times_us.append(1000.0 * first.elapsed_time(last))
    if repeat == 1:
        return Timing(times_us[0], times_us[0], times_us[0])
    tenths = statistics.quantiles(times_us, n=10, method="inclusive")
    return Timing(statistics.median(times_us), tenths[0], tenths[-1])


def copy_bytes_per_s() -> float:
    """Memory bandwidth of this GPU as measured by a large copy: bytes read and written a second."""
    source, to = (torch.empty(COPIED, dtype=torch.int8, device=DEVICE) for _ in range(2))
    return 2 * COPIED / (1e-6 * time_call(lambda: to.copy_(source), 10).median_us)
