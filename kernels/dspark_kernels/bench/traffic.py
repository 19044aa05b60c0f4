"""Global-memory bytes of a draft position and of a round: by formula, and counted on scaled shapes.

``every`` counts all accesses; ``distinct`` counts each address of a launch once, the traffic to memory where the L2
cache serves all repeated reads of a launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, markov_finish, verify_lengths
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.bench.access_counter import LaunchTraffic, counting
from dspark_kernels.heads import MarkovHead
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_scan import FIELDS, scan

INT, LONG, FLOAT = 4, 8, 4


class MemoryTraffic(NamedTuple):
    """Bytes and launches."""

    every: int
    distinct: int
    launches: int

    def plus(self, other: MemoryTraffic) -> MemoryTraffic:
        return MemoryTraffic(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> MemoryTraffic:
        return MemoryTraffic(*(count * a for a in self))


class RoundShape(NamedTuple):
    """The dimensions that determine memory traffic.

    Attributes:
        rows: Requests R, each with a block of gamma drafts.
        vocab, rank, hidden: V, K, H.
        accepted: Drafts accepted of each block, below gamma; the next one is rejected.
        logit_bytes: Size of a base logit, a weight and a hidden state.
        target_bytes: Size of a target logit.
    """

    rows: int
    vocab: int = 151_936
    rank: int = 256
    gamma: int = 7
    hidden: int = 4096
    accepted: int = 3
    logit_bytes: int = 2
    target_bytes: int = 4


def total(launches: Iterable[LaunchTraffic]) -> MemoryTraffic:
    """Sum the traffic of counted launches."""
    counted = list(launches)
    return MemoryTraffic(sum(one.every for one in counted), sum(one.distinct for one in counted), len(counted))


def minimum(shape: RoundShape, sampled: bool) -> int:
    """Bytes of a draft position that reads each input once and writes each output once.

    Inputs are the base logits, ``W2``, and for each request a row of ``W1``, a token, a temperature and, if sampled,
    its id and position; outputs are a token, its log-probability and the log-sum-exp.
    """
    b = shape.logit_bytes
    weights = shape.vocab * shape.rank * b
    row = shape.vocab * b + shape.rank * b + LONG + FLOAT + (2 * LONG if sampled else 0) + LONG + 2 * FLOAT
    return weights + shape.rows * row


def position(shape: RoundShape, cut: ScanConfig, sampled: bool, keeps: bool = False) -> MemoryTraffic:
    """Our draft position, two launches; ``keeps``: the corrected logits are written as well."""
    b, rows = shape.logit_bytes, shape.rows
    parts, blocks = cut.parts(shape.vocab, rows), math.ceil(rows / cut.block_rows)
    weights, logits = shape.vocab * shape.rank * b, rows * shape.vocab * b
    heads = rows * (shape.rank * b + LONG + FLOAT + (2 * LONG if sampled else 0))
    partials = FIELDS * parts * rows * FLOAT
    outputs = rows * (LONG + 2 * FLOAT) + (logits if keeps else 0)
    every = blocks * weights + logits + parts * heads + 2 * partials + outputs
    return MemoryTraffic(every, weights + logits + heads + 2 * partials + outputs, 2)


def confidence_of_block(shape: RoundShape) -> MemoryTraffic:
    """Our confidence of all positions, one launch."""
    b, rows, gamma = shape.logit_bytes, shape.rows, shape.gamma
    each = gamma * (shape.hidden + shape.rank) * b + gamma * LONG + 3 * gamma * FLOAT
    shared = (shape.hidden + shape.rank) * FLOAT + FLOAT + gamma * FLOAT
    return MemoryTraffic(rows * (each + shared), rows * each + shared, 1)


def schedule(shape: RoundShape) -> MemoryTraffic:
    """Our verify lengths from confidences, one launch."""
    moved = shape.rows * (shape.gamma * FLOAT + INT)
    return MemoryTraffic(moved, moved, 1)


def accept(shape: RoundShape, cut: ScanConfig, keeps: bool = False) -> MemoryTraffic:
    """Our acceptance of sampled blocks that are verified whole, four launches.

    Args:
        keeps: The corrected logits are read instead of the base logits, the latents and ``W2``.
    """
    b, t, rows, gamma = shape.logit_bytes, shape.target_bytes, shape.rows, shape.gamma
    parts, blocks = cut.parts(shape.vocab, rows), math.ceil(rows / cut.block_rows)
    request = INT + LONG + FLOAT
    stats = rows * (gamma + 1) * (shape.vocab * t + 2 * FLOAT + LONG)
    chain = rows * (INT + 3 * LONG + 2 * FLOAT + gamma * (2 * LONG + t + 3 * FLOAT) + INT)
    weights = 0 if keeps else shape.vocab * shape.rank * b
    logits = rows * shape.vocab * (t + b)
    named = rows * (2 * INT + 5 * LONG + 5 * FLOAT + (0 if keeps else 2 * LONG + shape.rank * b))
    partials = 2 * parts * rows * FLOAT
    ends = 2 * partials + rows * LONG
    return MemoryTraffic(
        stats + rows * (gamma + 1) * request + chain + blocks * weights + logits + parts * named + ends,
        stats + rows * request + chain + weights + logits + named + ends,
        4,
    )


def count_position(shape: RoundShape, cut: ScanConfig, sampled: bool, keeps: bool = False) -> MemoryTraffic:
    """:func:`position`, counted under the interpreter on tensors of that shape."""
    batch = _inputs(shape)
    outputs = draft.make_outputs(batch.head, shape.rows, shape.gamma, torch.device("cpu"))
    kept = torch.empty_like(batch.base_logits) if keeps else None
    with counting() as launches:
        partials = scan(batch, 1, batch.anchors, None, sample=sampled, kept=kept, config=cut)
        markov_finish.finish(batch.head, partials, batch.anchors, None, outputs, 1)
    return total(launches)


def count_confidence(shape: RoundShape) -> MemoryTraffic:
    """:func:`confidence_of_block`, counted."""
    batch = _inputs(shape)
    w1 = batch.head.w1
    hidden = torch.randn(shape.rows, shape.gamma, shape.hidden).to(w1.dtype)
    drafts = _distinct_drafts(shape)
    weight = torch.randn(shape.hidden + shape.rank)
    with counting() as launches:
        confidence.confidence_block(hidden, batch.anchors, drafts, weight, torch.zeros(1), torch.ones(shape.gamma), w1)
    return total(launches)


def count_schedule(shape: RoundShape) -> MemoryTraffic:
    """:func:`schedule`, counted."""
    given = torch.rand(shape.rows, shape.gamma)
    with counting() as launches:
        verify_lengths.verify_lengths(given, shape.rows * 2, floor=1e-6)
    return total(launches)


def count_accept(shape: RoundShape, cut: ScanConfig, keeps: bool = False) -> MemoryTraffic:
    """:func:`accept`, counted on blocks of which ``shape.accepted`` drafts are accepted."""
    rows, gamma = shape.rows, shape.gamma
    drafting, drafts = _inputs(shape), _distinct_drafts(shape)
    at = drafting.temperatures
    proposal = KeptProposal(
        drafting.base_logits,
        torch.full((rows, gamma), 10.0),
        torch.zeros(rows, gamma),
        at.clone(),
        None if keeps else drafting.head,
        None,
        drafting.anchors,
    )
    starts, lengths = torch.arange(rows) * (gamma + 1), torch.full((rows,), gamma, dtype=torch.int32)
    target, names = decided_target(shape, drafts), (torch.arange(rows), torch.arange(rows))
    with counting() as launches:
        accepted = acceptance.accept(VerifiedBatch(target, starts, lengths, drafts, proposal, at, *names, 1), cut)
    assert accepted.lengths.tolist() == [shape.accepted] * rows
    return total(launches)


def decided_target(shape: RoundShape, drafts: torch.Tensor) -> torch.Tensor:
    """GpuTarget logits [R * (gamma + 1), V] that take each block's first ``accepted`` drafts and refuse the next."""
    target = torch.zeros(shape.rows, shape.gamma + 1, shape.vocab)
    each = torch.arange(shape.rows)
    for k in range(shape.gamma):
        target[each, k, drafts[:, k]] = 60.0 if k < shape.accepted else -1.0e9
    return target.view(-1, shape.vocab)


def _distinct_drafts(shape: RoundShape) -> torch.Tensor:
    """int64 [R, gamma] without repeated tokens or anchors, since a row of ``W1`` that is read twice counts once."""
    return (shape.rows + torch.arange(shape.rows * shape.gamma)).view(shape.rows, shape.gamma)


def _inputs(shape: RoundShape) -> DraftBatch:
    dtype = torch.bfloat16 if shape.logit_bytes == 2 else torch.float32
    torch.manual_seed(0)
    w1, w2 = (torch.randn(shape.vocab, shape.rank).to(dtype) for _ in range(2))
    logits = torch.randn(shape.rows, shape.gamma, shape.vocab).to(dtype)
    anchors, names = torch.arange(shape.rows), (torch.arange(shape.rows), torch.arange(shape.rows))
    return DraftBatch(MarkovHead("vanilla", w1, w2), logits, anchors, None, torch.ones(shape.rows), *names, 1)
