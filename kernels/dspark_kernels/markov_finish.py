"""End a draft position: pick the token, compute its log-probability and the latent of the next position."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from dspark_kernels import launch_configs
from dspark_kernels.argmax_partials import reference_lowest
from dspark_kernels.heads import CHUNKS, NO_TOKEN, MarkovHead, Shard
from dspark_kernels.markov_merge import combine, reference_merge

# Rows of a program, and columns of the next latent that it computes.
BLOCK_ROWS = 16
BLOCK_COLUMN = 32


class DraftOutputs(NamedTuple):
    """The buffers that a draft block is written to.

    Attributes:
        tokens: int64 [R, gamma].
        log_probs: float32 [R, gamma], of the tokens in the proposal distribution.
        log_sums: float32 [R, gamma], log-sum-exp of the scaled corrected logits.
        latents: The head's dtype [R, gamma, K], for gated and rnn heads.
        states: float32 [2, R, K], scratch buffer of the rnn head.
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    log_sums: torch.Tensor
    latents: torch.Tensor | None = None
    states: torch.Tensor | None = None


@triton.jit
def _project(
    vectors, in_rows, weight, first, rank, stride, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Multiply rows at ``vectors`` [ROWS] by rows ``first`` to ``first + COLUMNS - 1`` of ``weight``."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    at = weight + (first + tl.arange(0, COLUMNS)).to(tl.int64)[:, None] * stride
    for start in range(0, rank, 64):
        inner = start + tl.arange(0, 64)
        in_rank = inner < rank
        tile = tl.load(at + inner[None, :], in_rank[None, :], 0.0)
        vector = tl.load(vectors[:, None] + inner[None, :], in_rows[:, None] & in_rank[None, :], 0.0)
        total = tl.dot(vector.to(tile.dtype), tl.trans(tile), total, input_precision=PRECISION)
    return total


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 2.0 * _sigmoid(2.0 * x) - 1.0


@triton.jit(do_not_specialize=["rows", "count", "step"])
def markov_finish(
    partials,
    tokens,
    log_probs,
    log_sums,
    w1,
    of_state,
    of_embedding,
    from_hidden,
    latents,
    states,
    rows,
    gamma,
    count,
    rank,
    step,
    joint_stride,
    START: tl.constexpr,
    MERGED: tl.constexpr,
    NEXT: tl.constexpr,
    RNN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COUNT: tl.constexpr,
    BLOCK_COLUMN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    row64 = row.to(tl.int64)
    if START:
        token = tl.load(tokens + row, in_rows, 0)
    else:
        _best, winner, chosen, log_sum = combine(partials, row, in_rows, rows, count, MERGED, BLOCK_COUNT)
        token = winner.to(tl.int64)
        at = row64 * gamma + step
        first_column = in_rows & (tl.program_id(1) == 0)
        tl.store(tokens + at, token, first_column)
        tl.store(log_probs + at, chosen - log_sum, first_column)
        tl.store(log_sums + at, log_sum, first_column)
    if NEXT:
        # The latent of position step + 1; anchors are step -1.
        column = tl.program_id(1) * BLOCK_COLUMN + tl.arange(0, BLOCK_COLUMN)
        first = tl.program_id(1) * BLOCK_COLUMN
        inside = in_rows[:, None] & (column < rank)[None, :]
        chunks: tl.constexpr = 3 if RNN else 1
        place = row64 * gamma + step + 1
        joint = from_hidden + place[:, None] * (chunks * rank) + column[None, :]
        embedding = w1 + token * rank
        gate = tl.load(joint, inside, 0.0)
        gate += _project(
            embedding, in_rows, of_embedding, first, rank, joint_stride, PRECISION, BLOCK_ROWS, BLOCK_COLUMN
        )
        if RNN:
            change = tl.load(joint + rank, inside, 0.0)
            change += _project(
                embedding, in_rows, of_embedding, rank + first, rank, joint_stride, PRECISION, BLOCK_ROWS, BLOCK_COLUMN
            )
            output = tl.load(joint + 2 * rank, inside, 0.0)
            output += _project(
                embedding,
                in_rows,
                of_embedding,
                2 * rank + first,
                rank,
                joint_stride,
                PRECISION,
                BLOCK_ROWS,
                BLOCK_COLUMN,
            )
            # Two alternating buffers, since programs of other columns still read the previous state.
            before = states + (((step + 1) % 2) * rows + row64) * rank
            after = states + (((step + 2) % 2) * rows + row64) * rank
            old = tl.zeros([BLOCK_ROWS, BLOCK_COLUMN], tl.float32)
            if not START:
                gate += _project(
                    before, in_rows, of_state, first, rank, joint_stride, PRECISION, BLOCK_ROWS, BLOCK_COLUMN
                )
                change += _project(
                    before, in_rows, of_state, rank + first, rank, joint_stride, PRECISION, BLOCK_ROWS, BLOCK_COLUMN
                )
                output += _project(
                    before, in_rows, of_state, 2 * rank + first, rank, joint_stride, PRECISION, BLOCK_ROWS, BLOCK_COLUMN
                )
                old = tl.load(before[:, None] + column[None, :], inside, 0.0)
            gate = _sigmoid(gate)
            tl.store(after[:, None] + column[None, :], gate * old + (1.0 - gate) * _tanh(change), inside)
            latent = _tanh(output)
        else:
            own = tl.load(embedding[:, None] + column[None, :], inside, 0.0)
            latent = _sigmoid(gate) * own.to(tl.float32)
        at = latents + place[:, None] * rank + column[None, :]
        tl.store(at, latent.to(latents.dtype.element_ty), inside)


def finish(
    head: MarkovHead,
    partials: torch.Tensor | None,
    anchors: torch.Tensor,
    from_hidden: torch.Tensor | None,
    outputs: DraftOutputs,
    step: int,
    merged: bool = False,
) -> None:
    """End position ``step`` and, for gated and rnn heads, compute the latent of the next.

    Args:
        partials: float32 [FIELDS, parts, R], or if ``merged`` [ranks, MERGED_FIELDS, R]; None at step -1, where the
            tokens are the anchors.
        anchors: int64 [R].
        from_hidden: float32 [R, gamma, chunks * K] (:meth:`MarkovHead.from_hidden`).
    """
    rows, gamma = outputs.tokens.shape
    start = partials is None
    count = 1 if partials is None else partials.shape[0 if merged else 1]
    next_latent = CHUNKS[head.kind] > 0 and step + 1 < gamma
    unused = outputs.log_sums
    of_state = of_embedding = head.w1
    if next_latent:
        of_state, of_embedding, _ = head.split()
    columns = triton.cdiv(head.rank, BLOCK_COLUMN) if next_latent else 1
    markov_finish[(triton.cdiv(rows, BLOCK_ROWS), columns)](
        unused if partials is None else partials,
        anchors if start else outputs.tokens,
        outputs.log_probs,
        outputs.log_sums,
        head.w1,
        of_state if head.kind == "rnn" else of_embedding,
        of_embedding,
        unused if from_hidden is None else from_hidden,
        unused if outputs.latents is None else outputs.latents,
        unused if outputs.states is None else outputs.states,
        rows,
        gamma,
        count,
        head.rank,
        step,
        of_embedding.stride(0),
        START=start,
        MERGED=merged,
        NEXT=next_latent,
        RNN=head.kind == "rnn",
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COUNT=triton.next_power_of_2(count),
        BLOCK_COLUMN=BLOCK_COLUMN,
        PRECISION=launch_configs.of(outputs.tokens.device).precision,
        num_warps=4,
    )


def reference_finish(
    scaled: torch.Tensor, keys: torch.Tensor, shard: Shard | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PyTorch reference: token int64, its log-probability and the log-sum-exp float32, all [R].

    Args:
        scaled, keys: As from :func:`dspark_kernels.markov_scan.reference_scan`.
    """
    if shard is None:
        tokens = keys.argmax(dim=1)
        chosen, log_sums = scaled.gather(1, tokens[:, None]).squeeze(1), torch.logsumexp(scaled, dim=1)
    else:
        best, bits, values, sums = shard.gather(reference_merge(scaled, keys, shard.start)).unbind(1)
        candidates = bits.view(torch.int32) & NO_TOKEN
        tokens = reference_lowest(best, candidates)
        chosen = torch.where(candidates == tokens, values, -torch.inf).amax(0)
        log_sums = torch.logsumexp(sums, dim=0)
    log_sums = torch.where(log_sums == torch.inf, torch.nan, log_sums)
    return tokens, chosen - log_sums, log_sums
