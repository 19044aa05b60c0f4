"""Memory traffic of SGLang's own kernels: by formula, and counted from the kernels in the installed wheel.

PyTorch's operators between them (matrix products, gathers, concatenations) are taken at their minimum: inputs read
once, outputs written once. Where SGLang would use FlashInfer's softmax its own Triton form is counted, and a launch's
re-reads are left out of ``distinct`` as ours are.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Final

import torch

from dspark_kernels.bench.access_counter import counting
from dspark_kernels.bench.traffic import FLOAT, INT, LONG, MemoryTraffic, RoundShape, decided_target, total

SAMPLE_BLOCK: Final = 1024
GREEDY_BLOCK: Final = 256
CHAIN_BLOCK: Final = 4096
SCHEDULE_BLOCK: Final = 64


def position(shape: RoundShape, sampled: bool) -> MemoryTraffic:
    """A draft position: ``MarkovGreedyStep`` for one greedy row, else the bias by GEMM and ``MarkovSampleStep``.

    Sampling keeps the step's logits, from which acceptance takes the proposal.
    """
    b, rows, vocab = shape.logit_bytes, shape.rows, shape.vocab
    gather = rows * (LONG + 2 * shape.rank * b)
    weights, logits = vocab * shape.rank * b, rows * vocab * b
    latent = rows * shape.rank * b
    if rows == 1 and not sampled:
        tiles = math.ceil(vocab / GREEDY_BLOCK)
        rest = weights + logits + 2 * tiles * (FLOAT + INT) + LONG
        return MemoryTraffic(gather + tiles * latent + rest, gather + latent + rest, 3)
    parts = math.ceil(vocab / SAMPLE_BLOCK)
    product = latent + weights + logits
    moved = 2 * logits + (logits if sampled else 0) + 4 * rows * parts * FLOAT + rows * LONG
    staged = gather + product + moved
    if not sampled:
        return MemoryTraffic(staged, staged, 4)
    # Every program reads its row's temperature and the counter.
    return MemoryTraffic(staged + rows * parts * (FLOAT + LONG), staged + rows * FLOAT + LONG, 4)


def confidence_of_block(shape: RoundShape) -> MemoryTraffic:
    """``DSparkConfidenceHead.predict``, which is PyTorch throughout: each operator at its minimum."""
    b, count, width = shape.logit_bytes, shape.rows * shape.gamma, shape.hidden + shape.rank
    tokens = 2 * count * LONG
    gather = count * (LONG + 2 * shape.rank * b)
    features = count * width * (2 * b + b + FLOAT)
    linear = count * width * FLOAT + (width + 1) * FLOAT + count * FLOAT
    tempered = 4 * count * FLOAT + FLOAT
    moved = tokens + gather + features + linear + tempered
    return MemoryTraffic(moved, moved, 7)


def schedule(shape: RoundShape) -> MemoryTraffic:
    """``ScheduleVerifyLensTopk``: survivals, all pairs of candidates, lengths; three launches."""
    rows, candidates = shape.rows, shape.rows * shape.gamma
    programs = math.ceil(candidates / SCHEDULE_BLOCK)
    prepare = candidates * 2 * FLOAT + rows * INT
    finish = rows * 2 * INT
    pairs = candidates * (FLOAT + 2 * INT) + programs * candidates * FLOAT
    distinct = candidates * FLOAT + rows * 2 * INT
    return MemoryTraffic(prepare + pairs + finish, prepare + distinct + finish, 3)


def accept(shape: RoundShape) -> MemoryTraffic:
    """``AcceptSampling`` over the kept logits: two softmaxes, coins, the chain, the cut and the bonus token."""
    b, t, rows, gamma, vocab = shape.logit_bytes, shape.target_bytes, shape.rows, shape.gamma, shape.vocab
    drafts, targets = rows * gamma, rows * (gamma + 1)
    softmax_every = drafts * (3 * vocab * b + FLOAT) + targets * (3 * vocab * t + FLOAT)
    softmax = drafts * vocab * b + targets * vocab * t + 2 * rows * FLOAT
    written = (drafts + targets) * vocab * FLOAT
    coins = rows * (gamma + 1) * FLOAT
    # The draw stops in the tile in which the running sum passes the coin: half way, for the coin of the count.
    read = min(vocab, CHAIN_BLOCK * (math.ceil(vocab / 2) // CHAIN_BLOCK + 1))
    steps = shape.accepted + 1
    chain = LONG + INT + steps * (LONG + 3 * FLOAT) + shape.accepted * (2 * INT + LONG) + INT + FLOAT + INT
    cut = 4 * INT + 3 * INT + LONG
    walked = rows * (chain + cut)
    every = softmax_every + written + coins + walked + rows * (vocab + read) * 2 * FLOAT
    # A chain kernel reads the first drafts' probabilities, then whole rows, of which the rejected one holds one more.
    return MemoryTraffic(every, softmax + written + coins + walked + rows * (vocab * 2 * FLOAT - 2 * FLOAT), 7)


def block(shape: RoundShape, sampled: bool) -> MemoryTraffic:
    """Traffic of a round beside its positions: the stacked drafts and the counter of the noise."""
    stacked = 2 * shape.rows * shape.gamma * LONG
    return MemoryTraffic(
        stacked + (2 * LONG if sampled else 0), stacked + (2 * LONG if sampled else 0), 2 if sampled else 1
    )


def greedy_accept(shape: RoundShape) -> MemoryTraffic:
    """``AcceptGreedy``: the argmax of the target's rows at its minimum. Nothing of ours stands in for it."""
    moved = shape.rows * (shape.gamma + 1) * (shape.vocab * shape.target_bytes + LONG)
    return MemoryTraffic(moved, moved, 1)


def count_position(shape: RoundShape, sampled: bool) -> MemoryTraffic:
    """:func:`position`: its kernels counted, its gather and GEMM at their minimum."""
    from sglang.kernels.ops.speculative.dspark import dspark_draft_model, markov_sample

    _interpretable(markov_sample)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if shape.logit_bytes == 2 else torch.float32
    rows, b = shape.rows, shape.logit_bytes
    logits = torch.randn(rows, shape.gamma, shape.vocab).to(dtype)[:, 1]
    latent = torch.randn(rows, shape.rank).to(dtype)
    w2 = torch.randn(shape.vocab, shape.rank).to(dtype)
    gather = rows * (LONG + 2 * shape.rank * b)
    operators = MemoryTraffic(gather, gather, 1)
    with counting() as launches:
        if rows == 1 and not sampled:
            dspark_draft_model.markov_greedy_step_triton(base_logits=logits, prev_embeds=latent, w2_weight=w2)
        else:
            moved = (rows * shape.rank + shape.vocab * shape.rank + rows * shape.vocab) * b
            operators = operators.plus(MemoryTraffic(moved, moved, 1))
            markov_sample.MarkovSampleStep.triton(
                base_logits=logits,
                bias=latent @ w2.T,
                temperatures=torch.ones(rows),
                key=1,
                offset=torch.zeros(1, dtype=torch.int64),
                step=1,
                step_dtype=dtype,
                logits_out=torch.empty(rows, shape.vocab, dtype=dtype) if sampled else None,
                has_sampled_rows=None if sampled else False,
            )
    return operators.plus(total(launches))


def count_schedule(shape: RoundShape) -> MemoryTraffic:
    """:func:`schedule`, counted."""
    from sglang.kernels.ops.speculative.dspark import dspark_schedule

    rules = SimpleNamespace(resolved_max_verify_len=lambda: shape.gamma, survival_eps=1e-6, min_verify_len=1)
    with counting() as launches:
        dspark_schedule.schedule_verify_lens_topk_triton(
            confidence=torch.rand(shape.rows, shape.gamma), budget=shape.rows * 2, cfg=rules
        )
    return total(launches)


def count_accept(shape: RoundShape) -> MemoryTraffic:
    """:func:`accept`: its kernels counted, its coins at their minimum."""
    from sglang.kernels.ops.speculative import reject_sampling
    from sglang.kernels.ops.speculative.dspark import dspark_accept
    from sglang.srt.speculative.dflash_utils import _get_or_create_chain_verify_buffers

    rows, gamma, vocab = shape.rows, shape.gamma, shape.vocab
    dtype = torch.bfloat16 if shape.logit_bytes == 2 else torch.float32
    drafts = torch.arange(rows * gamma).view(rows, gamma)
    kept = torch.zeros(rows * gamma, vocab).to(dtype)
    ones = torch.ones(rows)
    retrieve, following, sibling, predicts, index, count = _get_or_create_chain_verify_buffers(
        bs=rows, draft_token_num=gamma + 1, device=torch.device("cpu")
    )
    drawn = rows * (gamma + 1) * FLOAT
    coins = MemoryTraffic(drawn, drawn, 2)
    chain = getattr(reject_sampling.chain_speculative_sampling_triton, "__wrapped__", None)
    with counting() as launches:
        q = dspark_accept.softmax_temp_triton(logits=kept, temperatures=ones, rows_per_request=gamma)
        p = dspark_accept.softmax_temp_triton(
            logits=decided_target(shape, drafts), temperatures=ones, rows_per_request=gamma + 1
        )
        p = p.view(rows, gamma + 1, vocab)
        # What is left at the rejected draft is even, so that the draw's coin decides where it stops.
        (chain or reject_sampling.chain_speculative_sampling_triton)(
            predicts,
            index,
            count,
            torch.cat([torch.zeros(rows, 1, dtype=torch.int64), drafts], dim=1),
            retrieve,
            following,
            sibling,
            torch.full((rows, gamma), 0.5),
            torch.full((rows,), 0.5),
            p,
            q.view(rows, gamma, vocab) * 0.5,
            1.0,
            1.0,
            True,
        )
        lengths, _ = dspark_accept.cap_correct_len_triton(
            correct_len=count, verify_lens=torch.full((rows,), gamma + 1, dtype=torch.int32)
        )
        dspark_accept.gather_two_level_bonus_triton(accept_index=index, predicts=predicts, correct_len=lengths)
    assert count[:rows].tolist() == [shape.accepted] * rows
    return coins.plus(total(launches))


def _interpretable(module: Any) -> None:
    """The interpreter has no device library: ``log1p`` of noise by a logarithm, which moves the same bytes."""
    import triton.language as tl

    module.libdevice = SimpleNamespace(log1p=lambda value: tl.log(1.0 + value))
