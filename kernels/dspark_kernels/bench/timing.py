"""Time GPU work as a server does it: replays of CUDA graphs, with an L2 cache that holds something else."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch

DEVICE = torch.device("cuda")
# Bytes of the copy that measures bandwidth: far more than any L2 cache.
COPIED = 1 << 30


class Timing(NamedTuple):
    """Microseconds of one call: median, and the 10th and 90th percentiles."""

    median_us: float
    low_us: float
    high_us: float


def replay(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call in a CUDA graph and return the graph's replay; calls before it compile and fill buffers."""
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
        """Keeps what the call holds, which the graph writes."""
        graph.replay()

    return again


def time_call(call: Callable[[], object], repeat: int) -> Timing:
    """Time ``repeat`` calls, each by events around it, after one that is not counted.

    Other data fill the L2 cache before each: between two drafts a model's weights have passed through it.
    """
    cold = torch.zeros(4 * torch.cuda.get_device_properties(DEVICE).L2_cache_size, dtype=torch.int8, device=DEVICE)
    call()
    times_us: list[float] = []
    for _ in range(repeat):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Read, since lines that were written would be written back within the timed call.
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
    """Memory bandwidth of this GPU as a large copy reaches it: bytes read and written over time."""
    source, to = (torch.empty(COPIED, dtype=torch.int8, device=DEVICE) for _ in range(2))
    return 2 * COPIED / (1e-6 * time_call(lambda: to.copy_(source), 10).median_us)
