"""``python -m dspark_kernels.bench``: times our kernels on this machine's GPU, beside the references and SGLang's own.

Compares outputs with the references at every number of requests that is served, then times each of them: replays of
CUDA graphs, as a server makes them, with caches that hold something else. Prints a table to send back and writes the
result file that lets ``--speculative-dspark-kernels auto`` use what was faster at every number of requests. Without a
GPU it goes as far as a launch: argument checks, references, and the compilation of what it would time.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from dspark_kernels import acceptance, ahead, confidence, draft, results, selfcheck, targets, verify_lengths
from dspark_kernels.heads import MarkovHead
from dspark_kernels.interpreter import interpreted
from dspark_kernels.residual_scan import Proposal
from dspark_kernels.specimens import Served

# Numbers of requests in the table; references, which are slow, are timed there only.
ROWS = (1, 16, 64, 256)
REQUESTS = 256
VOCAB, RANK, GAMMA, HIDDEN = 151_936, 256, 7, 4096
# Where SGLang's own kernels are called; it imports SGLang, which nothing here may.
UPSTREAM = "sglang_dspark.serving.upstream_calls"


class Inputs(NamedTuple):
    """Of one case, on one device."""

    head: MarkovHead
    logits: torch.Tensor
    hidden: torch.Tensor
    anchors: torch.Tensor
    drafts: torch.Tensor
    temperatures: torch.Tensor
    names: torch.Tensor
    target: torch.Tensor
    lengths: torch.Tensor
    weight: torch.Tensor
    confidences: torch.Tensor
    log_sums: torch.Tensor


class Row(NamedTuple):
    """Medians in microseconds; None where a contestant is missing."""

    stage: str
    rows: int
    ours_us: float
    reference_us: float | None
    upstream_us: float | None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0; 1 where kernels are not what their references compute, 2 where nothing can be timed."""
    parser = argparse.ArgumentParser(prog="python -m dspark_kernels.bench", description=__doc__)
    parser.add_argument("--repeat", type=int, default=50, help="timed calls of each (default 50)")
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"most requests that are served at once (default {REQUESTS})"
    )
    parser.add_argument("--vocab", type=int, default=VOCAB, help=f"vocabulary (default {VOCAB})")
    asked = parser.parse_args(arguments)
    if not asked.repeat >= 1 or not 64 <= asked.vocab <= 262_144 or not 1 <= asked.requests <= 1024:
        parser.error("--repeat is 1 or more, --vocab 64 to 262,144, --requests 1 to 1,024")
    if interpreted():
        print("bench: TRITON_INTERPRET is set: an interpreter is not worth timing; unset it", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        rehearse(asked.vocab)
        return 2
    device = torch.device("cuda")
    target = targets.of(device)
    print(f"{torch.cuda.get_device_name(device)} ({target.name}), torch {torch.__version__}")
    differing = selfcheck.differing(device, Served(requests=asked.requests), every=True)
    for text in differing.values():
        print(f"not what the reference computes: {text}", file=sys.stderr)
    counts = range(1, asked.requests + 1)
    rows = [row for count in counts for row in time_all(inputs(count, asked.vocab, device), asked.repeat)]
    show([row for row in rows if row.reference_us is not None])
    print(f"1 to {asked.requests} requests were compared and timed; all of them are in the file")
    won = {
        stage: stage not in differing and _won([row for row in rows if row.stage == stage])
        for stage in selfcheck.STAGES
    }
    print("written:", results.write(device, won, [row._asdict() for row in rows]))
    return 1 if differing else 0


def _won(rows: list[Row]) -> bool:
    return bool(rows) and all(row.upstream_us is not None and row.ours_us < row.upstream_us for row in rows)


def rehearse(vocab: int) -> None:
    """Everything up to a launch: arguments, references on a small case, and the code for every target."""
    small = inputs(2, min(vocab, 1000), torch.device("cpu"), torch.float32)
    for stage, call in references(small).items():
        call()
        print(f"{stage}: reference runs")
    for name in targets.TARGETS:
        made = ahead.compile_calls(name, calls(inputs(64, vocab, torch.device("meta"))).values())
        print(f"{name}: {len(made)} kernels compiled for 64 requests, {sum(one.spill_bytes > 0 for one in made)} spill")
    print("bench: no GPU here, so nothing was launched and nothing timed; run this where there is one", file=sys.stderr)


def inputs(rows: int, vocab: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Inputs:
    """A decode step of ``rows`` requests."""
    hidden = HIDDEN if device.type != "cpu" else 64

    def normal(*shape: int, to: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32 if device.type == "cpu" else to).to(to)

    def integers(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, most, shape, device=device)

    return Inputs(
        MarkovHead("vanilla", normal(vocab, RANK), normal(vocab, RANK)),
        normal(rows, GAMMA, vocab),
        normal(rows, GAMMA, hidden),
        integers(vocab, rows),
        integers(vocab, rows, GAMMA),
        torch.ones(rows, device=device),
        integers(1 << 40, rows),
        normal(rows * (GAMMA + 1), vocab, to=torch.float32),
        torch.full((rows,), GAMMA, dtype=torch.int32, device=device),
        normal(hidden + RANK, to=torch.float32),
        torch.rand((rows, GAMMA), device=device),
        torch.full((rows, GAMMA), 20.0, device=device),
    )


def _proposal(given: Inputs) -> Proposal:
    certain = given.log_sums * 0.0
    return Proposal(given.logits, given.log_sums, certain, given.temperatures, given.head, None, given.anchors)


def calls(given: Inputs) -> dict[str, Callable[[], object]]:
    """Ours, by stage."""
    rows = len(given.anchors)
    starts = torch.arange(rows, device=given.anchors.device) * (GAMMA + 1)
    named: dict[str, Any] = {"requests": given.names, "positions": given.names, "seed": 1}
    return {
        "draft": lambda: draft.draft_block(
            given.head, given.logits, given.anchors, temperatures=given.temperatures, **named
        ),
        "confidence": lambda: confidence.confidence_block(
            given.hidden,
            given.anchors,
            given.drafts,
            given.weight,
            None,
            torch.ones(GAMMA, device=given.anchors.device),
            given.head.w1,
        ),
        "lengths": lambda: verify_lengths.verify_lengths(given.confidences, rows * 3, floor=1e-6, with_anchor=True),
        "accept": lambda: acceptance.accept(
            given.target,
            starts,
            given.lengths,
            given.drafts,
            _proposal(given),
            temperatures=given.temperatures,
            **named,
        ),
    }


def references(given: Inputs) -> dict[str, Callable[[], object]]:
    """The PyTorch references, by stage; on tensors of any device."""
    rows = len(given.anchors)
    starts = torch.arange(rows, device=given.anchors.device) * (GAMMA + 1)
    return {
        "draft": lambda: draft.reference_draft_block(
            given.head, given.logits, given.anchors, None, given.temperatures, given.names, given.names, 1
        ),
        "confidence": lambda: confidence.reference_confidence(
            given.hidden,
            given.anchors,
            given.drafts,
            given.weight,
            None,
            torch.ones(GAMMA, device=given.anchors.device),
            given.head.w1,
        ),
        "lengths": lambda: verify_lengths.reference_lengths(
            given.confidences, rows * 3, 1e-6, 0, GAMMA, None, None, None, None, True
        ),
        "accept": lambda: acceptance.reference_accept(
            given.target,
            starts,
            given.lengths,
            given.drafts,
            _proposal(given),
            given.temperatures,
            None,
            None,
            given.names,
            given.names,
            1,
        ),
    }


def upstream(given: Inputs) -> dict[str, Callable[[], object]]:
    """SGLang's own, by stage; none where it is not installed."""
    try:
        return dict(importlib.import_module(UPSTREAM).calls(given))
    except ImportError as error:
        print(f"SGLang's own: not here ({error})", file=sys.stderr)
        return {}


def time_all(given: Inputs, repeat: int) -> Iterator[Row]:
    """Every stage of one case."""
    rows = len(given.anchors)
    ours, slow, theirs = calls(given), references(given), upstream(given)
    for stage, call in ours.items():
        beside = time_call(replay(theirs[stage]), repeat) if stage in theirs else None
        # Whole distributions of many rows are slow; a few calls say it. They wait for the host, so no graph holds them.
        reference = time_call(slow[stage], min(repeat, 3)) if rows in ROWS else None
        yield Row(stage, rows, time_call(replay(call), repeat), reference, beside)


def replay(call: Callable[[], object]) -> Callable[[], object]:
    """What replays a call from a CUDA graph, after calls that compile it and fill its buffers."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def time_call(call: Callable[[], object], repeat: int) -> float:
    """Median of ``repeat`` calls in microseconds, each by events around it, after one that is not counted.

    The L2 cache is overwritten before each, since a model's weights have passed through it between two drafts.
    """
    cold = torch.empty(4 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.int8, device="cuda")
    call()
    found: list[float] = []
    for _ in range(repeat):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cold.zero_()
        first.record()
        call()
        last.record()
        last.synchronize()
        found.append(1000.0 * first.elapsed_time(last))
    return statistics.median(found)


def show(rows: list[Row]) -> None:
    """A table in Markdown."""
    print("| stage | R | ours, us | reference, us | SGLang's, us | ours / SGLang's |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        theirs = "" if row.upstream_us is None else f"{row.upstream_us:.1f}"
        ratio = "" if row.upstream_us is None else f"{row.ours_us / row.upstream_us:.2f}"
        reference = "" if row.reference_us is None else f"{row.reference_us:.1f}"
        print(f"| {row.stage} | {row.rows} | {row.ours_us:.1f} | {reference} | {theirs} | {ratio} |")


if __name__ == "__main__":
    sys.exit(main())
