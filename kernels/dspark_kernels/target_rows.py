"""Log-sum-exp, top-k/top-p threshold and argmax of each verified row of target logits.

One program a row. Where a request uses top-k or top-p, the smallest kept logit is found by base-16 bisection over the
bits of the logits (eight passes over the row for each of the two) instead of a sort.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from dspark_kernels.batches import VerifiedBatch

BLOCK = 512
# Logits are clamped to this, so that an infinite one is always drawn.
GREATEST = 3.0e38
_K_GREATEST = tl.constexpr(GREATEST)


class TargetRows(NamedTuple):
    """Statistics of the N rows of target logits.

    Attributes:
        log_sums: float32 [N], log-sum-exp of the kept scaled logits.
        thresholds: float32 [N], smallest scaled logit that is kept; -inf where all are.
        best: int64 [N], lowest token with the greatest logit.
    """

    log_sums: torch.Tensor
    thresholds: torch.Tensor
    best: torch.Tensor


@triton.jit
def scaled_logits(at, inside, scale):
    """Load logits times ``scale``; NaN becomes -inf (never drawn), infinity the greatest value (always drawn)."""
    value = tl.load(at, inside, float("-inf")).to(tl.float32) * scale
    return tl.where(value == value, tl.minimum(value, _K_GREATEST), float("-inf"))


@triton.jit
def _ordered(value):
    """Map float32 to uint32 so that the order is kept."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)  # -0 is 0.
    return tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)


@triton.jit
def _threshold(logits, width, scale, top, goal, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The greatest bound with at least ``goal`` tokens, or a mass of ``goal`` relative to ``top``, at or above it."""
    digit = tl.arange(0, 16)
    bound = (width * 0).to(tl.uint32)
    for turn in range(8):
        bounds = bound + (digit << (28 - 4 * turn)).to(tl.uint32, bitcast=True)
        total = tl.zeros([16, BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            value = scaled_logits(logits + column, column < width, scale)
            amount = (column < width).to(tl.float32)
            if MASS:
                amount = tl.exp(value - top)
            total += tl.where(_ordered(value)[None, :] >= bounds[:, None], amount[None, :], 0.0)
        # A digit of 0 always holds, so the count is at least one.
        next_digit = tl.sum((tl.sum(total, 1) >= goal).to(tl.int32), 0) - 1
        bound += (tl.maximum(next_digit, 0) << (28 - 4 * turn)).to(tl.uint32, bitcast=True)
    return bound


@triton.jit
def target_rows(
    logits,
    starts,
    lengths,
    temperatures,
    top_ks,
    top_ps,
    log_sums,
    thresholds,
    best,
    width,
    stride,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    request = tl.program_id(0)
    index = tl.program_id(1)
    if index <= tl.load(lengths + request):
        row = tl.load(starts + request) + index
        logits += row * stride
        temperature = tl.load(temperatures + request)
        scale = 1.0 / tl.where(temperature > 0, temperature, 1.0)
        # Each lane keeps its own greatest logit, that logit's column, and its mass relative to that logit.
        most = tl.full([BLOCK], float("-inf"), tl.float32)
        where = tl.zeros([BLOCK], tl.int32)
        mass = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            value = scaled_logits(logits + column, column < width, scale)
            higher = value > most
            where = tl.where(higher, column, where)
            origin = tl.where(higher, value, most)
            safe = tl.where(origin > float("-inf"), origin, 0.0)
            mass = mass * tl.exp(most - safe) + tl.exp(value - safe)
            most = origin
        top = tl.max(most, 0)
        token = tl.min(tl.where(most == top, where, width), 0)
        safe = tl.where(top > float("-inf"), top, 0.0)
        total = tl.sum(mass * tl.exp(most - safe), 0)
        lowest = (width * 0).to(tl.uint32)
        if TOP_K:
            keep = tl.load(top_ks + request)
            if (keep < width) & (temperature > 0):
                lowest = _threshold(logits, width, scale, safe, keep.to(tl.float32), False, BLOCK)
        if TOP_P:
            share = tl.load(top_ps + request)
            if (share < 1.0) & (temperature > 0):
                held = tl.zeros([BLOCK], tl.float32)
                for start in range(0, width, BLOCK):
                    column = start + tl.arange(0, BLOCK)
                    value = scaled_logits(logits + column, column < width, scale)
                    held += tl.where(_ordered(value) >= lowest, tl.exp(value - safe), 0.0)
                kept = _threshold(logits, width, scale, safe, share * tl.sum(held, 0), True, BLOCK)
                lowest = tl.where(kept > lowest, kept, lowest)
        threshold = tl.where(top == top, float("-inf"), top)
        if lowest > 0:
            held = tl.zeros([BLOCK], tl.float32)
            least = tl.full([BLOCK], float("inf"), tl.float32)
            for start in range(0, width, BLOCK):
                column = start + tl.arange(0, BLOCK)
                value = scaled_logits(logits + column, column < width, scale)
                keeps = _ordered(value) >= lowest
                held += tl.where(keeps, tl.exp(value - safe), 0.0)
                least = tl.minimum(least, tl.where(keeps, value, float("inf")))
            total = tl.sum(held, 0)
            threshold = tl.min(least, 0)
        tl.store(log_sums + row, top + tl.log(total))
        tl.store(thresholds + row, threshold)
        tl.store(best + row, token.to(tl.int64))


def launch_target_rows(batch: VerifiedBatch) -> TargetRows:
    """Launch the kernel on a checked batch.

    Returns:
        Rows that belong to no request are left uninitialised.
    """
    logits = batch.target_logits
    device, count = logits.device, logits.shape[0]
    out = TargetRows(
        torch.empty(count, dtype=torch.float32, device=device),
        torch.empty(count, dtype=torch.float32, device=device),
        torch.empty(count, dtype=torch.int64, device=device),
    )
    target_rows[(len(batch.starts), batch.drafts.shape[1] + 1)](
        logits,
        batch.starts,
        batch.lengths,
        batch.temperatures,
        batch.lengths if batch.top_ks is None else batch.top_ks,
        batch.temperatures if batch.top_ps is None else batch.top_ps,
        *out,
        logits.shape[1],
        logits.stride(0),
        TOP_K=batch.top_ks is not None,
        TOP_P=batch.top_ps is not None,
        BLOCK=BLOCK,
        # Bisection keeps 16 sums for each column; with more than one column a thread some Triton versions spill.
        num_warps=4 if batch.top_ks is None and batch.top_ps is None else 16,
    )
    return out


def reference_target_rows(
    logits: torch.Tensor, temperatures: torch.Tensor, top_ks: torch.Tensor | None, top_ps: torch.Tensor | None
) -> TargetRows:
    """PyTorch reference for rows [N, V] with a temperature, top-k and top-p each, [N]."""
    scaled = _reference_scaled(logits, temperatures)
    order = scaled.sort(dim=1, descending=True, stable=True)
    width = scaled.shape[1]
    threshold = torch.full_like(temperatures, -torch.inf)
    if top_ks is not None:
        last = order.values.gather(1, (top_ks.long().clamp(max=width) - 1)[:, None]).squeeze(1)
        threshold = torch.where((top_ks < width) & (temperatures > 0), last, threshold)
    if top_ps is not None:
        mass = torch.softmax(scaled.double().masked_fill(scaled < threshold[:, None], -torch.inf), dim=1)
        upto = mass.gather(1, order.indices).cumsum(dim=1)
        enough = (upto < top_ps.double()[:, None]).sum(dim=1).clamp(max=width - 1)
        last = order.values.gather(1, enough[:, None]).squeeze(1)
        threshold = torch.where((top_ps < 1) & (temperatures > 0), torch.maximum(threshold, last), threshold)
    kept = scaled.masked_fill(scaled < threshold[:, None], -torch.inf)
    return TargetRows(torch.logsumexp(kept, dim=1), threshold, scaled.argmax(dim=1))


def reference_probabilities(
    logits: torch.Tensor, temperatures: torch.Tensor, top_ks: torch.Tensor | None, top_ps: torch.Tensor | None
) -> torch.Tensor:
    """The distributions that :func:`reference_target_rows` describes, float32 [N, V]."""
    rows, scaled = reference_target_rows(logits, temperatures, top_ks, top_ps), _reference_scaled(logits, temperatures)
    p = torch.exp(scaled - rows.log_sums[:, None]).masked_fill(scaled < rows.thresholds[:, None], 0.0).nan_to_num(0.0)
    greedy = torch.nn.functional.one_hot(rows.best, p.shape[1]).float()
    return torch.where((temperatures > 0)[:, None], p, greedy)


def _reference_scaled(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """PyTorch reference of :func:`scaled_logits`."""
    scaled = logits.float() / torch.where(temperatures > 0, temperatures, 1.0)[:, None]
    return torch.where(scaled.isnan(), -torch.inf, scaled.clamp(max=GREATEST))
