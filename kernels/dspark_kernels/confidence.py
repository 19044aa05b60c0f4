"""Confidence and survival of a drafted block in one launch: linear head, temperature scaling and running product."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from dspark_kernels import checks
from dspark_kernels.interpreter import launches

BLOCK_HIDDEN = 512


class Confidence(NamedTuple):
    """Confidence of a draft block, all float32 [R, gamma].

    Attributes:
        logits: Of the confidence head, before temperature scaling.
        confidence: ``sigmoid(logit / T_k)``.
        survival: Running product of the confidences, accumulated in float64.
    """

    logits: torch.Tensor
    confidence: torch.Tensor
    survival: torch.Tensor


@triton.jit
def confidence_rows(
    hidden,
    w1,
    anchors,
    tokens,
    weight,
    bias,
    temperatures,
    logits,
    confidence,
    survival,
    width,
    rank,
    GAMMA: tl.constexpr,
    EACH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MARKOV: tl.constexpr,
    BLOCK_GAMMA: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, BLOCK_GAMMA)
    inside = position < GAMMA
    of_row = row * GAMMA + position
    total = tl.zeros([BLOCK_GAMMA], tl.float32)
    for start in range(0, width, BLOCK_HIDDEN):
        column = start + tl.arange(0, BLOCK_HIDDEN)
        in_width = column < width
        state = tl.load(hidden + of_row[:, None] * width + column[None, :], inside[:, None] & in_width[None, :], 0.0)
        factor = tl.load(weight + column, in_width, 0.0).to(tl.float32)
        total += tl.sum(state.to(tl.float32) * factor[None, :], 1)
    if HAS_MARKOV:
        # The previous token: the anchor, then the drafts.
        token = tl.load(tokens + of_row - 1, inside & (position > 0), 0)
        token = tl.where(position == 0, tl.load(anchors + row), token)
        inner = tl.arange(0, BLOCK_RANK)
        in_rank = inner < rank
        embedding = tl.load(w1 + token[:, None] * rank + inner[None, :], inside[:, None] & in_rank[None, :], 0.0)
        factor = tl.load(weight + width + inner, in_rank, 0.0).to(tl.float32)
        total += tl.sum(embedding.to(tl.float32) * factor[None, :], 1)
    if HAS_BIAS:
        total += tl.load(bias).to(tl.float32)
    tempered = 1.0 / (1.0 + tl.exp(-total / tl.load(temperatures + position * EACH, inside, 1.0)))
    tl.store(logits + of_row, total, inside)
    tl.store(confidence + of_row, tempered, inside)
    # Multiply in the order of the block: scores are ranked by their bits, which depend on that order.
    product = (tl.program_id(0) * 0 + 1).to(tl.float64)
    for k in tl.static_range(GAMMA):
        product *= tl.sum(tl.where(position == k, tempered, 0.0), 0).to(tl.float64)
        tl.store(survival + row * GAMMA + k, product.to(tl.float32))


def confidence_block(
    hidden: torch.Tensor,
    anchors: torch.Tensor,
    tokens: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    temperatures: torch.Tensor,
    w1: torch.Tensor | None,
) -> Confidence:
    """Estimate P(draft accepted | all earlier drafts accepted), and P(it and all earlier drafts accepted).

    Args:
        hidden: [R, gamma, H].
        anchors: int64 [R], the tokens before the blocks.
        tokens: int64 [R, gamma], the drafts.
        weight: [H + K], or [H] for a head without the Markov embedding.
        bias: [1], or None.
        temperatures: float32 [gamma] of sequential temperature scaling, or [1] for all positions.
        w1: [V, K], the Markov embedding, or None for a head without it.

    Raises:
        ValueError: An argument does not fit; the message names it.
    """
    checks.tensor("hidden", hidden, checks.LOGITS, (None, None, None), hidden)
    rows, gamma, width = hidden.shape
    checks.between("hidden: gamma", gamma, 1, checks.MAX_GAMMA)
    rank = 0 if w1 is None else w1.shape[-1]
    checks.tensor("anchors", anchors, torch.int64, (rows,), hidden)
    checks.tensor("tokens", tokens, torch.int64, (rows, gamma), hidden)
    checks.tensor("weight", weight, checks.LOGITS, (width + rank,), hidden)
    if bias is not None:
        checks.tensor("bias", bias, checks.LOGITS, (1,), hidden)
    checks.tensor("temperatures", temperatures, torch.float32, (1 if temperatures.numel() == 1 else gamma,), hidden)
    if w1 is not None:
        checks.tensor("w1", w1, checks.LOGITS, (None, None), hidden)
        checks.between("w1: rank", rank, 1, checks.MAX_RANK)
    if not launches(hidden):
        return reference_confidence(hidden, anchors, tokens, weight, bias, temperatures, w1)
    out = Confidence(*(torch.empty((rows, gamma), dtype=torch.float32, device=hidden.device) for _ in range(3)))
    confidence_rows[(rows,)](
        hidden,
        weight if w1 is None else w1,
        anchors,
        tokens,
        weight,
        weight if bias is None else bias,
        temperatures,
        *out,
        width,
        rank,
        GAMMA=gamma,
        EACH=int(temperatures.numel() > 1),
        HAS_BIAS=bias is not None,
        HAS_MARKOV=w1 is not None,
        BLOCK_GAMMA=triton.next_power_of_2(gamma),
        BLOCK_HIDDEN=min(BLOCK_HIDDEN, triton.next_power_of_2(width)),
        BLOCK_RANK=triton.next_power_of_2(max(rank, 1)),
        num_warps=4,
    )
    return out


def reference_confidence(
    hidden: torch.Tensor,
    anchors: torch.Tensor,
    tokens: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    temperatures: torch.Tensor,
    w1: torch.Tensor | None,
) -> Confidence:
    """PyTorch reference of :func:`confidence_block`."""
    features = hidden.float()
    if w1 is not None:
        before = torch.cat([anchors[:, None], tokens[:, :-1]], dim=1)
        features = torch.cat([features, w1[before].float()], dim=2)
    logits = features @ weight.float()
    if bias is not None:
        logits = logits + bias.float()
    confidence = torch.sigmoid(logits / temperatures)
    return Confidence(logits, confidence, confidence.double().cumprod(dim=1).float())
