"""Bytes and launches of our kernels beside SGLang's: formulas that counts on scaled shapes must equal exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from dspark_kernels.bench import traffic
from dspark_kernels.bench.traffic import MemoryTraffic, RoundShape
from dspark_kernels.draft import worth_keeping
from dspark_kernels.launch_configs import TARGETS, GpuTarget, ScanConfig, for_rows
from sglang_dspark.errors import InputError
from sglang_dspark.serving.evidence import upstream_traffic as upstream

ROWS: Final = (1, 16, 64, 256)
# Small enough to interpret in seconds; tiles, parts and blocks of rows that do not divide, one and several.
SCALED: Final = (
    RoundShape(1, 1000, 24, 4, 70, 2),
    RoundShape(5, 2100, 24, 4, 70, 2),
    RoundShape(40, 1500, 24, 4, 70, 2),
    RoundShape(3, 10_000, 16, 4, 70, 2),
)
CUT: Final = ScanConfig(16, 64, 4, 2, 6)
DEFAULT_TARGET: Final = "sm_90"


def run() -> dict[str, Any]:
    """Count, check and report.

    Returns:
        ``rows``: a draft position, sampled, on an H100, by requests; ``greedy``: the same at temperature 0; ``round``:
        a whole round, sampled and greedy as a server with CUDA graphs runs it, and ``eager``, sampled without graphs;
        ``targets``: position and round on every target, with the time that the bytes take at published bandwidth
        (derived, not measured); ``counted``: the scaled shapes on which the formulas were met.

    Raises:
        InputError: Kernels are not interpreted in this process, or a count differs from the formula.
    """
    from dspark_kernels.interpreter import interpreted

    if not interpreted():
        raise InputError("TRITON_INTERPRET: Triton was imported without it; start `dspark kernels bytes` by itself")
    counted = [check(shape) for shape in SCALED]
    of_targets = {name: _target(target) for name, target in TARGETS.items()}
    default = of_targets[DEFAULT_TARGET]
    return {
        "target": DEFAULT_TARGET,
        "rows": default["sampled"],
        "greedy": default["greedy"],
        "round": default["round"],
        "targets": of_targets,
        "counted": counted,
    }


def check(shape: RoundShape) -> dict[str, Any]:
    """Count every stage, ours and upstream's, at a shape.

    Raises:
        InputError: A count differs from the formula.
    """
    stages: dict[str, tuple[Callable[[], MemoryTraffic], MemoryTraffic]] = {
        "confidence": (lambda: traffic.count_confidence(shape), traffic.confidence_of_block(shape)),
        "schedule": (lambda: traffic.count_schedule(shape), traffic.schedule(shape)),
        "kept": (lambda: traffic.count_position(shape, CUT, True, True), traffic.position(shape, CUT, True, True)),
        "accept": (lambda: traffic.count_accept(shape, CUT), traffic.accept(shape, CUT)),
        "accept kept": (lambda: traffic.count_accept(shape, CUT, True), traffic.accept(shape, CUT, True)),
        "upstream schedule": (lambda: upstream.count_schedule(shape), upstream.schedule(shape)),
        "upstream accept": (lambda: upstream.count_accept(shape), upstream.accept(shape)),
    }
    for name, sampled in (("sampled", True), ("greedy", False)):
        stages[name] = (
            partial(traffic.count_position, shape, CUT, sampled),
            traffic.position(shape, CUT, sampled),
        )
        stages[f"upstream {name}"] = partial(upstream.count_position, shape, sampled), upstream.position(shape, sampled)
    for name, (count, formula) in stages.items():
        if (counted := count()) != formula:
            raise InputError(f"{name}: counted {counted}, by formula {formula}, at {shape}; one of them is wrong")
    return {"rows": shape.rows, "vocab": shape.vocab, "rank": shape.rank, "gamma": shape.gamma, "stages": list(stages)}


def _target(target: GpuTarget) -> dict[str, Any]:
    sampled: dict[str, Any] = {}
    greedy: dict[str, Any] = {}
    rounds: dict[str, Any] = {}
    for rows in ROWS:
        shape = RoundShape(rows)
        cut = for_rows(target.draft, rows)
        for by_rows, is_sampled in ((sampled, True), (greedy, False)):
            by_rows[str(rows)] = _beside(
                traffic.position(shape, cut, is_sampled),
                upstream.position(shape, is_sampled),
                traffic.minimum(shape, is_sampled),
                target,
            )
        rounds[str(rows)] = {
            "sampled": _round(shape, target, True, True),
            "greedy": _round(shape, target, False, True),
            "eager": _round(shape, target, True, False),
        }
    return {"gpu": target.gpu, "sampled": sampled, "greedy": greedy, "round": rounds}


def _round(shape: RoundShape, target: GpuTarget, sampled: bool, graph: bool) -> dict[str, Any]:
    """gamma positions, confidence, schedule and acceptance; greedy acceptance is upstream's in both.

    Args:
        graph: Drafts are made in a CUDA graph, which has a buffer for corrected logits: they are kept there always.
    """
    kept = sampled and (graph or worth_keeping(shape.rows, shape.gamma, shape.rank))
    draft = traffic.position(shape, for_rows(target.draft, shape.rows), sampled, kept).times(shape.gamma)
    ours = draft.plus(traffic.confidence_of_block(shape)).plus(traffic.schedule(shape))
    theirs = upstream.position(shape, sampled).times(shape.gamma).plus(upstream.block(shape, sampled))
    theirs = theirs.plus(upstream.confidence_of_block(shape)).plus(upstream.schedule(shape))
    if sampled:
        ours = ours.plus(traffic.accept(shape, for_rows(target.residual, shape.rows), kept))
        theirs = theirs.plus(upstream.accept(shape))
    else:
        ours, theirs = ours.plus(upstream.greedy_accept(shape)), theirs.plus(upstream.greedy_accept(shape))
    return _beside(ours, theirs, None, target)


def _beside(ours: MemoryTraffic, theirs: MemoryTraffic, least: int | None, target: GpuTarget) -> dict[str, Any]:
    """Plain keys count every access; ``*_l2`` leave out what the L2 cache serves again."""
    figures: dict[str, Any] = {"bytes": ours.every, "bytes_l2": ours.distinct}
    if least is not None:
        figures |= {"minimum": least, "vs_minimum": ours.every / least, "vs_minimum_l2": ours.distinct / least}
    return figures | {
        "upstream_bytes": theirs.every,
        "upstream_bytes_l2": theirs.distinct,
        "vs_upstream": ours.every / theirs.every,
        "vs_upstream_l2": ours.distinct / theirs.distinct,
        "launches": ours.launches,
        "upstream_launches": theirs.launches,
        "derived_s": ours.distinct / target.bytes_per_s,
        "upstream_derived_s": theirs.distinct / target.bytes_per_s,
    }
