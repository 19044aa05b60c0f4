"""Time launch configurations next to the current one where a goal was missed, and name the fastest."""

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

# The operations with a pass over the vocabulary, which has a configuration.
CONFIGURED: Final = ("draft sampled", "draft greedy", "accept")


class MissedGoal(NamedTuple):
    """An operation that missed its goal at a batch size, and the median of its current configuration."""

    operation: str
    requests: int
    now_us: float


class ConfigAdvice(NamedTuple):
    """The fastest of the current configuration and its neighbours; JSON fields of the bench's report."""

    operation: str
    requests: int
    now: ScanConfig
    now_us: float
    best: ScanConfig
    best_us: float


def neighbours(scan: ScanConfig, multiprocessors: int) -> Iterator[ScanConfig]:
    """Configurations that differ from ``scan`` in one field."""
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
    cases: Sequence[MissedGoal],
    target: GpuTarget,
    pool: ProcessPoolExecutor,
    repeat: int,
    until_s: float,
) -> list[ConfigAdvice]:
    """Time the neighbours of the current configuration of each case.

    Args:
        pool: Compiles the neighbours before they are timed.
        until_s: Deadline on :func:`time.monotonic`'s clock; nothing is timed after it.
    """
    multiprocessors = torch.cuda.get_device_properties(timing.DEVICE).multi_processor_count
    near = {case: list(neighbours(_present(served, case, target), multiprocessors)) for case in cases}
    variants = [(target.name, served, case, scan) for case, scans in near.items() for scan in scans]
    # A variant that does not compile fails to launch below, and is skipped there.
    wait([pool.submit(_compile, *each) for each in variants], timeout=max(until_s - time.monotonic(), 0.0))
    advice = (_best(served, case, _present(served, case, target), near[case], repeat, until_s) for case in cases)
    return [one for one in advice if one is not None]


def _best(
    served: ServedShapes,
    case: MissedGoal,
    present: ScanConfig,
    near: list[ScanConfig],
    repeat: int,
    until_s: float,
) -> ConfigAdvice | None:
    """The fastest configuration; None if the deadline passed before all were timed."""
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
    return ConfigAdvice(case.operation, case.requests, present, case.now_us, best, best_us)


def _present(served: ServedShapes, case: MissedGoal, target: GpuTarget) -> ScanConfig:
    table = target.residual if case.operation == "accept" else target.draft
    return launch_configs.for_rows(table if served.w2.itemsize == 2 else target.single, case.requests)


def _compile(target: str, served: ServedShapes, case: MissedGoal, scan: ScanConfig) -> None:
    given = operations.inputs(served._replace(requests=case.requests), torch.device("meta"))
    compile_check.compile_calls(target, [operations.ours(given, scan)[case.operation]])
