"""Compute a tile of corrected logits, as all passes over the vocabulary do."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_latents(latents, place, in_rows, inner, in_rank, stride, dtype: tl.constexpr):
    """Load rows ``place`` int64 of ``latents`` as ``dtype``, that of ``W2``, [ROWS, RANK] padded with zeros."""
    at = latents + place[:, None] * stride + inner[None, :]
    return tl.load(at, in_rows[:, None] & in_rank[None, :], 0.0).to(dtype)


@triton.jit
def corrected(latent, w2, base, column, in_width, inner, in_rank, rank, PRECISION: tl.constexpr):
    """``base + latent W2`` for the columns, float32 [ROWS, COLUMNS], kept in registers."""
    at = w2 + column.to(tl.int64)[:, None] * rank + inner[None, :]
    weight = tl.load(at, in_width[:, None] & in_rank[None, :], 0.0)
    return tl.dot(latent, tl.trans(weight), base, input_precision=PRECISION)
