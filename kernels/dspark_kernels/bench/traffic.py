"""Bytes of global memory that a draft position, and a whole round, move: by formula, and counted on scaled shapes.

``every`` counts all accesses; ``distinct`` counts each address of a launch once, which is what goes to memory where the
L2 cache serves what a launch reads again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, markov_finish, verify_lengths
from dspark_kernels.bench.access_counter import LaunchTraffic, counting
from dspark_kernels.heads import MarkovHead
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_scan import FIELDS, scan
from dspark_kernels.residual_scan import Proposal

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
    """What the bytes hang on.

    Attributes:
        rows: Requests R, each with a block of gamma drafts.
        vocab, rank, hidden: V, K, H.
        accepted: Drafts that the target accepts of each block, below gamma; the next one is rejected.
        logit_bytes: Of a base logit, a weight and a hidden state.
        target_bytes: Of a logit of the target.
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
    """The traffic of counted launches."""
    found = list(launches)
    return MemoryTraffic(sum(one.every for one in found), sum(one.distinct for one in found), len(found))


def minimum(shape: RoundShape, sampled: bool) -> int:
    """A position with each input read once and each output written once.

    Inputs are the base logits, ``W2``, a row of ``W1``, a token and a temperature for each request, and if sampled what
    names the draws; outputs are a token, its log-probability and the log-sum-exp.
    """
    b = shape.logit_bytes
    weights = shape.vocab * shape.rank * b
    row = shape.vocab * b + shape.rank * b + LONG + FLOAT + (2 * LONG if sampled else 0) + LONG + 2 * FLOAT
    return weights + shape.rows * row


def position(shape: RoundShape, cut: ScanConfig, sampled: bool, kept: bool = False) -> MemoryTraffic:
    """Ours: the pass over the vocabulary and its end; ``kept``: the corrected logits are written as well."""
    b, rows = shape.logit_bytes, shape.rows
    parts, blocks = cut.parts(shape.vocab, rows), math.ceil(rows / cut.block_rows)
    weights, logits = shape.vocab * shape.rank * b, rows * shape.vocab * b
    heads = rows * (shape.rank * b + LONG + FLOAT + (2 * LONG if sampled else 0))
    partials = FIELDS * parts * rows * FLOAT
    outputs = rows * (LONG + 2 * FLOAT) + (logits if kept else 0)
    every = blocks * weights + logits + parts * heads + 2 * partials + outputs
    return MemoryTraffic(every, weights + logits + heads + 2 * partials + outputs, 2)


def confidence_of_block(shape: RoundShape) -> MemoryTraffic:
    """Ours: the confidence of all positions, one launch."""
    b, rows, gamma = shape.logit_bytes, shape.rows, shape.gamma
    each = gamma * (shape.hidden + shape.rank) * b + gamma * LONG + 3 * gamma * FLOAT
    shared = (shape.hidden + shape.rank) * FLOAT + FLOAT + gamma * FLOAT
    return MemoryTraffic(rows * (each + shared), rows * each + shared, 1)


def schedule(shape: RoundShape) -> MemoryTraffic:
    """Ours: lengths from confidences, one launch."""
    moved = shape.rows * (shape.gamma * FLOAT + INT)
    return MemoryTraffic(moved, moved, 1)


def accept(shape: RoundShape, cut: ScanConfig, kept: bool = False) -> MemoryTraffic:
    """Ours, sampled, whole blocks verified: the target's rows, the chain, the residual and the token.

    Args:
        kept: The corrected logits are read in place of the base logits, the latents and ``W2``.
    """
    b, t, rows, gamma = shape.logit_bytes, shape.target_bytes, shape.rows, shape.gamma
    parts, blocks = cut.parts(shape.vocab, rows), math.ceil(rows / cut.block_rows)
    request = INT + LONG + FLOAT
    stats = rows * (gamma + 1) * (shape.vocab * t + 2 * FLOAT + LONG)
    chain = rows * (INT + 3 * LONG + 2 * FLOAT + gamma * (2 * LONG + t + 3 * FLOAT) + INT)
    weights = 0 if kept else shape.vocab * shape.rank * b
    logits = rows * shape.vocab * (t + b)
    named = rows * (2 * INT + 5 * LONG + 5 * FLOAT + (0 if kept else 2 * LONG + shape.rank * b))
    partials = 2 * parts * rows * FLOAT
    ends = 2 * partials + rows * LONG
    return MemoryTraffic(
        stats + rows * (gamma + 1) * request + chain + blocks * weights + logits + parts * named + ends,
        stats + rows * request + chain + weights + logits + named + ends,
        4,
    )


def count_position(shape: RoundShape, cut: ScanConfig, sampled: bool, kept: bool = False) -> MemoryTraffic:
    """:func:`position`, counted under the interpreter on tensors of that shape."""
    rows = shape.rows
    head, logits, tokens, temperatures = _inputs(shape)
    outputs = draft.make_outputs(head, rows, shape.gamma, logits.device)
    with counting() as launches:
        partials = scan(
            head,
            logits[:, 1],
            tokens,
            None,
            temperatures,
            torch.arange(rows),
            torch.arange(rows),
            seed=1,
            step=1,
            sample=sampled,
            kept=torch.empty_like(logits)[:, 1] if kept else None,
            config=cut,
        )
        markov_finish.finish(head, partials, tokens, None, outputs, 1)
    return total(launches)


def count_confidence(shape: RoundShape) -> MemoryTraffic:
    """:func:`confidence_of_block`, counted."""
    head, _, anchors, _ = _inputs(shape)
    hidden = torch.randn(shape.rows, shape.gamma, shape.hidden).to(head.w1.dtype)
    drafts = _distinct_drafts(shape)
    weight = torch.randn(shape.hidden + shape.rank)
    with counting() as launches:
        confidence.confidence_block(hidden, anchors, drafts, weight, torch.zeros(1), torch.ones(shape.gamma), head.w1)
    return total(launches)


def count_schedule(shape: RoundShape) -> MemoryTraffic:
    """:func:`schedule`, counted."""
    given = torch.rand(shape.rows, shape.gamma)
    with counting() as launches:
        verify_lengths.verify_lengths(given, shape.rows * 2, floor=1e-6)
    return total(launches)


def count_accept(shape: RoundShape, cut: ScanConfig, kept: bool = False) -> MemoryTraffic:
    """:func:`accept`, counted on a block that is accepted up to ``shape.accepted``."""
    rows, gamma = shape.rows, shape.gamma
    head, logits, anchors, temperatures = _inputs(shape)
    drafts = _distinct_drafts(shape)
    target = decided_target(shape, drafts)
    certain = torch.zeros(rows, gamma)
    sums = torch.full((rows, gamma), 10.0)
    proposal = Proposal(logits, sums, certain, temperatures.clone(), None if kept else head, None, anchors)
    with counting() as launches:
        found = acceptance.accept(
            target,
            torch.arange(rows) * (gamma + 1),
            torch.full((rows,), gamma, dtype=torch.int32),
            drafts,
            proposal,
            temperatures=temperatures,
            requests=torch.arange(rows),
            positions=torch.arange(rows),
            seed=1,
            scan=cut,
        )
    assert found.lengths.tolist() == [shape.accepted] * rows
    return total(launches)


def decided_target(shape: RoundShape, drafts: torch.Tensor) -> torch.Tensor:
    """GpuTarget logits [R * (gamma + 1), V] that take each block's first ``accepted`` drafts and refuse the next."""
    target = torch.zeros(shape.rows, shape.gamma + 1, shape.vocab)
    each = torch.arange(shape.rows)
    for k in range(shape.gamma):
        target[each, k, drafts[:, k]] = 60.0 if k < shape.accepted else -1.0e9
    return target.view(-1, shape.vocab)


def _distinct_drafts(shape: RoundShape) -> torch.Tensor:
    """int64 [R, gamma], no token twice, none an anchor: rows of ``W1`` that are read twice would count once."""
    return (shape.rows + torch.arange(shape.rows * shape.gamma)).view(shape.rows, shape.gamma)


def _inputs(shape: RoundShape) -> tuple[MarkovHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Head, base logits, tokens and temperatures."""
    dtype = torch.bfloat16 if shape.logit_bytes == 2 else torch.float32
    torch.manual_seed(0)
    head = MarkovHead("vanilla", *(torch.randn(2, shape.vocab, shape.rank).to(dtype).unbind(0)))
    head = head._replace(w1=head.w1.contiguous(), w2=head.w2.contiguous())
    logits = torch.randn(shape.rows, shape.gamma, shape.vocab).to(dtype)
    tokens = torch.arange(shape.rows)
    return head, logits, tokens, torch.ones(shape.rows)
