"""Choose how many drafts of each request to verify: admit the best by score up to a cap, in one launch.

One program holds all candidates (at most 1,024 requests of 16) in registers. The lowest admitted score is found by
radix selection, one bit of the scores at a time: 31 counts over the candidates, without a sort, a comparison of pairs
or a copy to the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dspark_kernels import checks
from dspark_kernels.interpreter import launches

MAX_CLASSES = 256
# Smaller batches are padded at no cost, so that few kernels are compiled.
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
    # Keys are the bits of non-negative floats, whose integer order is the floats'; -1 marks no candidate. The first
    # axis is the position, so that ties are admitted by position, then by request.
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
    # Number of keys equal to the threshold that are admitted.
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
    """Admit the ``cap`` best drafts, exactly as ``sglang_dspark.policy.lengths`` does from the same confidences.

    A draft's score is ``weights[class] * survival / (1 + price * context)``; survival is the running product of the
    confidences, accumulated in double in the order of the block, and scores are compared as integers.

    Args:
        confidence: float32 [R, gamma].
        cap: Maximum number of drafts to verify; int32 [1] on the device if it changes between replays of a CUDA graph.
        floor: Minimum survival of a candidate.
        least, most: Shortest and longest length; ``most`` is gamma by default.
        weights, price, classes, context: float64 [C], float64 [1], int64 [R], int64 [R]; None for scores that are
            survivals. ``classes`` are below C.
        with_anchor: Add one to each length, as SGLang counts.

    Returns:
        int32 [R].

    Raises:
        ValueError: An argument does not fit; the message names it.
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
            confidence,
            int(cap),
            floor=floor,
            least=least,
            most=most,
            weights=weights,
            price=price,
            classes=classes,
            context=context,
            with_anchor=with_anchor,
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
    *,
    floor: float,
    most: int,
    least: int = 0,
    weights: torch.Tensor | None = None,
    price: torch.Tensor | None = None,
    classes: torch.Tensor | None = None,
    context: torch.Tensor | None = None,
    with_anchor: bool = False,
) -> torch.Tensor:
    """PyTorch reference of :func:`verify_lengths`, by sorting."""
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
