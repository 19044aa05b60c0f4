"""How many drafts of each request a step verifies: the cap's best by rank of their score, in one launch.

One program holds all candidates (1,024 requests of 16 at most) in registers. The score of the last one that is admitted
is found by radix selection, one bit of the scores at a time: 31 counts over the candidates, so the work is linear in
them, and nothing is sorted, compared in pairs or sent to the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels import checks
from dspark_kernels.interpreter import launches

MAX_CLASSES = 256
# Smaller batches are padded, which costs a program nothing, so that there are few kernels to compile.
LEAST_BLOCK = 64


@triton.jit(do_not_specialize=["cap", "requests", "least", "last", "plus"])
def rank_and_admit(
    confidence,
    weights,
    price,
    classes,
    context,
    cap_at,
    out,
    cap,
    requests,
    least,
    last,
    plus,
    floor,
    GAMMA: tl.constexpr,
    FACTOR: tl.constexpr,
    CAP_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_GAMMA: tl.constexpr,
):
    request = tl.arange(0, BLOCK)
    position = tl.arange(0, BLOCK_GAMMA)
    inside = request < requests
    if CAP_ON_DEVICE:
        cap = tl.load(cap_at).to(tl.int32)
    first = tl.where(requests * least <= cap, least, 0)
    if FACTOR:
        weight = tl.load(weights + tl.load(classes + request, inside, 0), inside, 0.0)
        cost = 1.0 + tl.load(price) * tl.load(context + request, inside, 0).to(tl.float64)
        factor = (weight / cost).to(tl.float32)
    # Keys are the bits of non-negative floats, which have the floats' order; -1 is no candidate. Position comes first,
    # so that equals follow each other by position, then by request.
    keys = tl.full([BLOCK_GAMMA, BLOCK], -1, tl.int32)
    product = tl.full([BLOCK], 1.0, tl.float64)
    alive = inside
    for k in tl.static_range(GAMMA):
        product *= tl.load(confidence + request * GAMMA + k, inside, 0.0).to(tl.float64)
        survival = product.to(tl.float32)
        alive = alive & (survival >= floor)
        score = survival
        if FACTOR:
            score = factor * survival
        here = ((position == k) & (position >= first) & (position < last))[:, None] & alive[None, :]
        keys = tl.where(here, score.to(tl.int32, bitcast=True)[None, :], keys)
    keys = tl.reshape(keys, [BLOCK_GAMMA * BLOCK])

    candidates = tl.sum((keys >= 0).to(tl.int32), 0)
    left = cap - requests * first
    # The threshold is the left-th largest key, found bit by bit from the top.
    goal = tl.minimum(tl.maximum(left, 1), tl.maximum(candidates, 1))
    threshold = requests * 0
    for bit in range(31):
        higher = threshold + (1 << (30 - bit))
        threshold = tl.where(tl.sum((keys >= higher).to(tl.int32), 0) >= goal, higher, threshold)
    # How many of its equals are admitted.
    remaining = goal - tl.sum((keys > threshold).to(tl.int32), 0)
    threshold = tl.where(left >= candidates, -1, threshold)
    remaining = tl.where(left >= candidates, 0, remaining)
    threshold = tl.where(left > 0, threshold, 2147483647)
    tied = (keys == threshold).to(tl.int32)
    admitted = (keys > threshold) | ((tied > 0) & (tl.cumsum(tied, 0) <= remaining))
    lengths = tl.sum(tl.reshape(admitted.to(tl.int32), [BLOCK_GAMMA, BLOCK]), 0)
    tl.store(out + request, first + plus + lengths, inside)


def verify_lengths(
    confidence: torch.Tensor,
    cap: int | torch.Tensor,
    *,
    floor: float,
    least: int = 0,
    most: int | None = None,
    weights: torch.Tensor | None = None,
    price: torch.Tensor | None = None,
    classes: torch.Tensor | None = None,
    context: torch.Tensor | None = None,
    with_anchor: bool = False,
) -> torch.Tensor:
    """The cap's best drafts: what ``sglang_dspark.policy.lengths`` admits of the same confidences.

    A draft's score is ``weights[class] * survival / (1 + price * context)``; survival is the running product of the
    confidences, accumulated in double in the order of the block, and scores are compared as integers.

    Args:
        confidence: float32 [R, gamma].
        cap: Drafts that may be verified; int32 [1] on the device where a CUDA graph is replayed with another value.
        floor: Least survival that is a candidate.
        least, most: Shortest and longest length.
        weights, price, classes, context: float64 [C], float64 [1], int64 [R], int64 [R]; None for scores that are
            survivals. ``classes`` are below C.
        with_anchor: Adds one to each length, as SGLang counts.

    Returns:
        int32 [R].

    Raises:
        ValueError: An argument does not fit; it is named.
    """
    checks.tensor("confidence", confidence, torch.float32, (None, None), confidence)
    requests, gamma = confidence.shape
    checks.between("confidence: rows", requests, 1, checks.MAX_ROWS)
    checks.between("confidence: gamma", gamma, 1, checks.MAX_GAMMA)
    most = gamma if most is None else most
    checks.between("most", most, 0, gamma)
    checks.between("least", least, 0, most)
    factors = (weights, price, classes, context)
    if any(one is not None for one in factors):
        if weights is None or price is None or classes is None or context is None:
            raise ValueError("weights, price, classes, context: some are missing, expected all or none")
        checks.tensor("weights", weights, torch.float64, (None,), confidence)
        checks.tensor("price", price, torch.float64, (1,), confidence)
        checks.tensor("classes", classes, torch.int64, (requests,), confidence)
        checks.tensor("context", context, torch.int64, (requests,), confidence)
    if isinstance(cap, torch.Tensor):
        checks.tensor("cap", cap, torch.int32, (1,), confidence)
    if not launches(confidence):
        return reference_lengths(
            confidence, int(cap), floor, least, most, weights, price, classes, context, with_anchor
        )
    out = torch.empty(requests, dtype=torch.int32, device=confidence.device)
    on_device = isinstance(cap, torch.Tensor)
    block, columns = max(LEAST_BLOCK, triton.next_power_of_2(requests)), triton.next_power_of_2(gamma)
    rank_and_admit[(1,)](
        confidence,
        confidence if weights is None else weights,
        confidence if price is None else price,
        confidence if classes is None else classes,
        confidence if context is None else context,
        cap if on_device else confidence,
        out,
        0 if on_device else min(int(cap), requests * gamma),
        requests,
        least,
        most,
        int(with_anchor),
        floor,
        GAMMA=gamma,
        FACTOR=weights is not None,
        CAP_ON_DEVICE=on_device,
        BLOCK=block,
        BLOCK_GAMMA=columns,
        # More warps would leave too few registers to each.
        num_warps=8 if block * columns > 4096 else 4,
    )
    return out


def reference_lengths(
    confidence: torch.Tensor,
    cap: int,
    floor: float,
    least: int,
    most: int,
    weights: torch.Tensor | None,
    price: torch.Tensor | None,
    classes: torch.Tensor | None,
    context: torch.Tensor | None,
    with_anchor: bool,
) -> torch.Tensor:
    """Reference of :func:`verify_lengths`, by sorting."""
    requests = confidence.shape[0]
    survival = confidence.double().cumprod(dim=1).float()
    score = survival
    if weights is not None and price is not None and classes is not None and context is not None:
        score = (weights[classes] / (1.0 + price * context)).float()[:, None] * survival
    first = least if requests * least <= cap else 0
    alive = (survival >= floor).cummin(dim=1).values
    alive[:, :first] = False
    alive[:, most:] = False
    keys = torch.where(alive, score.view(torch.int32), -1).t().flatten()
    best = torch.sort(keys, descending=True, stable=True)
    left = min(max(cap - requests * first, 0), keys.numel())
    admitted = best.indices[:left][best.values[:left] >= 0] % requests
    return (first + int(with_anchor) + torch.bincount(admitted, minlength=requests)).to(torch.int32)
