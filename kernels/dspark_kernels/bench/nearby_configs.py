"""Launch configurations near the present one, timed where a goal was missed, to say which to try next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from typing import Final, NamedTuple

import torch

from dspark_kernels import launch_configs
from dspark_kernels.bench import operations, timing
from dspark_kernels.launch_configs import GpuTarget, ScanConfig
from dspark_kernels.startup import compile_check
from dspark_kernels.startup.served_shapes import ServedShapes

# The operations whose pass over the vocabulary has a configuration.
CONFIGURED: Final = ("draft sampled", "draft greedy", "accept")


class Case(NamedTuple):
    """An operation at a number of requests, and the median of its present configuration in microseconds."""

    operation: str
    requests: int
    now_us: float


class Advice(NamedTuple):
    """The fastest configuration near the present one; the present one where none was faster."""

    operation: str
    requests: int
    now: ScanConfig
    now_us: float
    best: ScanConfig
    best_us: float


def neighbours(scan: ScanConfig, multiprocessors: int) -> Iterator[ScanConfig]:
    """Configurations that differ from one in a single respect."""
    for columns in (scan.block_vocab // 2, 2 * scan.block_vocab):
        if columns >= 16:
            yield scan._replace(block_vocab=columns)
    for warps in (scan.warps // 2, 2 * scan.warps):
        if 2 <= warps <= 16:
            yield scan._replace(warps=warps)
    for stages in (scan.stages - 1, scan.stages + 1):
        if stages >= 1:
            yield scan._replace(stages=stages)
    for programs in (multiprocessors, 2 * multiprocessors, 4 * multiprocessors):
        if programs != scan.programs:
            yield scan._replace(programs=programs)


def advise(
    served: ServedShapes,
    cases: Sequence[Case],
    target: GpuTarget,
    pool: ProcessPoolExecutor,
    repeat: int,
    until_s: float,
) -> list[Advice]:
    """Time the neighbours of the configuration of each case.

    Args:
        pool: Compiles ahead of the timing.
        until_s: On :func:`time.monotonic`'s clock; no other configuration is timed after it.
    """
    multiprocessors = torch.cuda.get_device_properties(timing.DEVICE).multi_processor_count
    near = {case: list(neighbours(_present(served, case, target), multiprocessors)) for case in cases}
    asked = [(target.name, served, case, scan) for case, scans in near.items() for scan in scans]
    # What does not compile does not launch either, and is left out there.
    wait([pool.submit(_compile, *one) for one in asked], timeout=max(until_s - time.monotonic(), 0.0))
    advice = (_best(served, case, _present(served, case, target), near[case], repeat, until_s) for case in cases)
    return [one for one in advice if one is not None]


def _best(
    served: ServedShapes,
    case: Case,
    present: ScanConfig,
    near: list[ScanConfig],
    repeat: int,
    until_s: float,
) -> Advice | None:
    """None where time ran out before all of them were timed."""
    if time.monotonic() > until_s:
        return None
    given = operations.inputs(served._replace(requests=case.requests), timing.DEVICE)
    best, best_us = present, case.now_us
    for scan in near:
        if time.monotonic() > until_s:
            return None
        try:
            median_us = timing.time_call(timing.replay(operations.ours(given, scan)[case.operation]), repeat).median_us
        except Exception:  # Triton, its compiler and CUDA each have their own.
            continue
        if median_us < best_us:
            best, best_us = scan, median_us
    return Advice(case.operation, case.requests, present, case.now_us, best, best_us)


def _present(served: ServedShapes, case: Case, target: GpuTarget) -> ScanConfig:
    table = target.residual if case.operation == "accept" else target.draft
    return launch_configs.for_rows(table if served.w2.itemsize == 2 else target.single, case.requests)


def _compile(target: str, served: ServedShapes, case: Case, scan: ScanConfig) -> None:
    given = operations.inputs(served._replace(requests=case.requests), torch.device("meta"))
    compile_check.compile_calls(target, [operations.ours(given, scan)[case.operation]])
