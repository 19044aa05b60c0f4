"""Time our kernels on this machine's GPU against PyTorch references and SGLang's own kernels.

First compares outputs with the references at every batch size, as served and in three dtypes. Then times each
operation of a draft round, and a whole round, at every batch size: CUDA graph replays with a cold L2 cache, next to
the memory-bound time. Where a goal is missed, times neighbouring launch configurations and names the fastest. Prints a
table and writes the result file, from which --speculative-dspark-kernels auto takes the stages that were faster at
every batch size. Without a GPU it checks arguments, runs the references, compiles the kernels, and ends with code 2.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import triton

from dspark_kernels import heads, launch_configs
from dspark_kernels.bench import nearby_configs, operations, timing
from dspark_kernels.bench.operations import OPERATIONS, ROUND
from dspark_kernels.bench.timing import Timing
from dspark_kernels.interpreter import interpreted
from dspark_kernels.launch_configs import GpuTarget
from dspark_kernels.startup import bench_results, compile_check, selfcheck
from dspark_kernels.startup.served_shapes import ServedShapes

# Batch sizes of the printed table, timed first; the slow references are timed at these only.
ROWS: Final = (1, 16, 64, 256)
REQUESTS: Final = 256
# The check covers every batch size up to this.
CHECKED: Final = 1024
# Goal of operations that read the vocabulary, from GOAL_ROWS requests on: at most this multiple of memory-bound time.
GOAL: Final = 1.15
GOAL_ROWS: Final = 64
GOAL_OPERATIONS: Final = ("draft sampled", "draft greedy", "accept", ROUND)
DTYPES: Final = ("bfloat16", "float16", "float32")
# Seconds of the budget reserved for timing neighbouring configurations.
ADVICE_S: Final = 45.0
# The module that calls SGLang's kernels; imported by name, since this package must not import SGLang.
UPSTREAM: Final = "sglang_dspark.serving.evidence.upstream_calls"


class BenchRow(NamedTuple):
    """Times of an operation at a batch size in microseconds; None where not timed.

    Attributes:
        ours, upstream, reference: Times of our kernels, SGLang's and PyTorch.
        bound_us: Memory-bound time: minimum bytes of our kernels over this GPU's measured copy bandwidth.
    """

    operation: str
    requests: int
    ours: Timing
    upstream: Timing | None
    reference: Timing | None
    bound_us: float | None

    @property
    def of_bound(self) -> float | None:
        """Our time over the memory-bound time; its inverse is the share of bandwidth."""
        return None if self.bound_us is None else self.ours.median_us / self.bound_us

    @property
    def of_upstream(self) -> float | None:
        return None if self.upstream is None else self.ours.median_us / self.upstream.median_us

    @property
    def missed(self) -> bool:
        """Whether it is slower than SGLang's, or in a large batch over GOAL times the memory-bound time."""
        slower = self.of_upstream is not None and self.of_upstream >= 1.0
        bound = self.operation in GOAL_OPERATIONS and self.requests >= GOAL_ROWS and self.of_bound is not None
        return slower or (bound and (self.of_bound or 0.0) > GOAL)

    def as_json(self) -> dict[str, Any]:
        timings = {
            name: None if timing is None else timing._asdict()
            for name, timing in (("ours", self.ours), ("upstream", self.upstream), ("reference", self.reference))
        }
        share = None if self.of_bound is None else 1.0 / self.of_bound
        return {
            "operation": self.operation,
            "requests": self.requests,
            **timings,
            "bound_us": self.bound_us,
            "share_of_bandwidth": share,
            "of_bound": self.of_bound,
            "of_upstream": self.of_upstream,
            "goal_missed": self.missed,
        }


def main(arguments: list[str] | None = None) -> int:
    """Run the bench.

    Returns:
        Exit code: 0; 1 if a kernel differs from its reference; 2 if nothing can be timed.
    """
    served, options = _parse(arguments)
    if interpreted():
        print("bench: TRITON_INTERPRET is set, so kernels would be interpreted; unset it", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        rehearse(served)
        return 2
    deadline_s = time.monotonic() + options.budget_s
    # The rest is for neighbouring configurations of missed goals.
    timed_until_s = deadline_s - min(ADVICE_S, options.budget_s / 4)
    device = timing.DEVICE
    target = launch_configs.of(device)
    header = {
        "device": torch.cuda.get_device_name(device),
        "target": target.name,
        "torch": torch.__version__,
        "triton": triton.__version__,
        # SGLang's acceptance uses FlashInfer's softmax if it is installed, otherwise its own Triton kernel.
        "flashinfer": _version("flashinfer-python"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "served": served.flags(),
        "copy_bytes_per_s": timing.copy_bytes_per_s(),
    }
    print(", ".join(f"{name} {value}" for name, value in header.items()))
    pool = ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn"))
    try:
        differing = check_all(served, pool)
        for text in differing.values():
            print(f"differs from the reference: {text}", file=sys.stderr)
        ends = selfcheck.row_counts(device, served)
        list(pool.map(compile_at, *zip(*((target.name, served, count) for count in ends), strict=True)))
        rows: list[BenchRow] = []
        for row in time_all(served, target, header["copy_bytes_per_s"], options.repeat):
            rows.append(row)
            if time.monotonic() > timed_until_s:
                break
        timed = {row.requests for row in rows if row.operation == ROUND}
        print(f"timed at {len(timed)} of {served.requests} batch sizes")
        show([row for row in rows if row.requests in ROWS])
        won = {stage: stage not in differing and _won(stage, rows, served.requests) for stage in selfcheck.STAGES}
        report = {**header, "differing": differing, "wins": won, "rows": [row.as_json() for row in rows]}
        print("written:", bench_results.write(device, served, won, report["rows"]))
        _write(options.out, report)
        cases = [
            nearby_configs.MissedGoal(row.operation, row.requests, row.ours.median_us)
            for row in rows
            if row.missed and row.requests in ROWS and row.operation in nearby_configs.CONFIGURED
        ]
        advice = nearby_configs.advise(served, cases, target, pool, options.repeat, deadline_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for one in advice:
        how = "nothing near it was faster" if one.best == one.now else f"try {one.best}, {one.best_us:.1f} us"
        print(f"{one.operation} at {one.requests}: {one.now} took {one.now_us:.1f} us; {how}")
    _write(options.out, report | {"next": [one._asdict() for one in advice]})
    return 1 if differing else 0


def _write(out: Path | None, report: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print("written:", out)


def _parse(arguments: list[str] | None) -> tuple[ServedShapes, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m dspark_kernels.bench", description=__doc__)
    parser.add_argument("--repeat", type=int, default=50, help="timed calls of each operation (default 50)")
    parser.add_argument(
        "--budget-s",
        type=float,
        default=float("inf"),
        help="seconds after which no more cases are timed (default none)",
    )
    parser.add_argument("--out", type=Path, help="write all figures to this file as JSON")
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"largest batch size of the server (default {REQUESTS})"
    )
    parser.add_argument(
        "--kind", choices=tuple(heads.CHUNKS), default="vanilla", help="kind of the draft's Markov head"
    )
    default = ServedShapes()
    for name, least, most in (("vocab", 64, 262_144), ("rank", 1, 256), ("hidden", 1, 65_536), ("gamma", 1, 16)):
        number = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=number, help=f"{least} to {most:,} (default {number:,})")
    for name in ("logits", "w1", "w2", "kept", "target"):
        dtype = str(getattr(default, name)).removeprefix("torch.")
        parser.add_argument(f"--{name}", choices=DTYPES, default=dtype, help=f"dtype (default {dtype})")
    options = parser.parse_args(arguments)
    ranges = {"repeat": (1, 10_000), "requests": (1, 1024), "vocab": (64, 262_144), "rank": (1, 256)}
    for name, (least, most) in (ranges | {"hidden": (1, 65_536), "gamma": (1, 16)}).items():
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name}: {getattr(options, name):,}, expected {least:,} to {most:,}")
    fields = {name: getattr(options, name) for name in ("kind", "vocab", "rank", "hidden", "gamma", "requests")}
    dtypes = {name: getattr(torch, getattr(options, name)) for name in ("logits", "w1", "w2", "kept", "target")}
    return ServedShapes(**fields, **dtypes), options


def check_all(served: ServedShapes, pool: ProcessPoolExecutor) -> dict[str, str]:
    """Compare every stage at every batch size up to 1,024, as served and in each dtype throughout.

    Runs in parallel processes, since compilers take most of the time.
    """
    same = {"kind": served.kind, "rank": served.rank, "requests": CHECKED}
    cases = [served._replace(requests=CHECKED), *(ServedShapes.of(getattr(torch, dtype), **same) for dtype in DTYPES)]
    jobs = [(case, stage) for case in cases for stage in selfcheck.STAGES]
    differing: dict[str, str] = {}
    for of_stage in pool.map(differs, *zip(*jobs, strict=True)):
        differing |= of_stage
    return differing


def differs(served: ServedShapes, stage: str) -> dict[str, str]:
    """Run :func:`selfcheck.differing` for one stage, in a worker process."""
    return selfcheck.differing(timing.DEVICE, served, every=True, stages=[stage])


def compile_at(target: str, served: ServedShapes, requests: int) -> int:
    """Compile the kernels of a batch size in a worker process; Triton caches them on disk."""
    given = operations.inputs(served._replace(requests=requests), torch.device("meta"))
    return len(compile_check.compile_calls(target, operations.ours(given).values()))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _won(stage: str, rows: list[BenchRow], requests: int) -> bool:
    """Whether a stage was faster than SGLang's in all its operations at every batch size."""
    of_stage = [row for row in rows if OPERATIONS.get(row.operation) == stage]
    operations = sum(one == stage for one in OPERATIONS.values())
    faster = all(row.of_upstream is not None and row.of_upstream < 1.0 for row in of_stage)
    return faster and len(of_stage) == operations * requests


def rehearse(served: ServedShapes) -> None:
    """Check arguments, run the references on a small case, and compile for every target."""
    small = served._replace(requests=2, vocab=min(served.vocab, 1000), hidden=64, logits=torch.float32)
    small = small._replace(w1=torch.float32, w2=torch.float32, kept=torch.float32)
    for operation, call in operations.references(operations.inputs(small, torch.device("cpu"))).items():
        call()
        print(f"{operation}: reference runs")
    given = operations.inputs(served._replace(requests=64), torch.device("meta"))
    for name in launch_configs.TARGETS:
        made = compile_check.compile_calls(name, operations.ours(given).values())
        print(f"{name}: {len(made)} kernels compiled for 64 requests, {sum(one.spill_bytes > 0 for one in made)} spill")
    print(
        "bench: no GPU here, so nothing was launched and nothing timed; run it on a machine with one", file=sys.stderr
    )


def time_all(served: ServedShapes, target: GpuTarget, bytes_per_s: float, repeat: int) -> Iterator[BenchRow]:
    """Time every operation at every batch size; those of the table first."""
    of_all = operations.inputs(served, timing.DEVICE)
    in_table = [count for count in ROWS if count <= served.requests]
    rest = [count for count in range(1, served.requests + 1) if count not in in_table]
    failed: set[str] = set()
    for count in in_table + rest:
        given = of_all.first(count)
        ours, theirs = operations.ours(given), upstream(given, served)
        slow = operations.references(given) if count in in_table else {}
        moved = operations.moved_bytes(served, count, target)
        for operation, call in ours.items():
            own = _timed(call, f"our {operation} at {count}", repeat)
            if own is None:
                continue
            others = None
            if operation in theirs and operation not in failed:
                others = _timed(theirs[operation], f"SGLang's {operation} at {count}", repeat)
                # Do not retry a failed capture.
                failed |= {operation} if others is None else set()
            # The references synchronise with the host and cannot be captured.
            plain = _timed(slow.get(operation), f"PyTorch's {operation} at {count}", 3, graph=False)
            yield BenchRow(
                operation,
                count,
                own,
                others,
                plain,
                1e6 * moved[operation] / bytes_per_s if operation in moved else None,
            )


def _timed(call: Callable[[], object] | None, name: str, repeat: int, graph: bool = True) -> Timing | None:
    """Time a call; None if there is none or it fails, as in a large batch for lack of memory."""
    if call is None:
        return None
    try:
        return timing.time_call(timing.replay(call) if graph else call, repeat)
    except Exception as error:  # Triton, its compiler, CUDA and SGLang each have their own.
        text = str(error).splitlines()
        print(f"{name}: {type(error).__name__}: {text[0] if text else ''}", file=sys.stderr)
        return None


def upstream(given: operations.BenchInputs, served: ServedShapes) -> operations.Calls:
    """Calls of SGLang's kernels by operation; empty if SGLang is not installed."""
    try:
        return dict(importlib.import_module(UPSTREAM).calls(given, served))
    except Exception as error:  # An import on another machine may fail in any way.
        print(f"SGLang's kernels are not available: {error}", file=sys.stderr)
        return {}


def show(rows: list[BenchRow]) -> None:
    """Print a Markdown table."""
    print(
        "| operation | R | ours, us (10 % to 90 %) | memory-bound, us | SGLang's, us | PyTorch, us | ours / SGLang's |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        spread = f"{row.ours.median_us:.1f} ({row.ours.low_us:.1f} to {row.ours.high_us:.1f})"
        times = [row.bound_us, *(None if one is None else one.median_us for one in (row.upstream, row.reference))]
        cells = ["" if one is None else f"{one:.1f}" for one in times]
        ratio = "" if row.of_upstream is None else f"{row.of_upstream:.2f}"
        print(f"| {row.operation} | {row.requests} | {spread} | {' | '.join(cells)} | {ratio} |")
