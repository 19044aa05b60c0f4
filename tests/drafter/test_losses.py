"""The drafter's losses and their gradients against plain loops and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from sglang_dspark.drafter.losses import Losses, block_losses  # noqa: E402

N, GAMMA, V = 3, 4, 6
Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def plain(draft: Array, target: Array, confidence: Array, labels: Array, known: Array) -> tuple[float, float, float]:
    """Cross entropy, L1 distance and confidence terms, one place after the other."""
    total = [0.0, 0.0, 0.0]
    weight = 0.0
    for n in range(N):
        for k in range(1, GAMMA + 1):
            if not known[n, k - 1]:
                continue
            w = math.exp(-(k - 1) / GAMMA)
            p, q = softmax(target[n, k - 1]), softmax(draft[n, k - 1])
            distance = sum(abs(a - b) for a, b in zip(p, q, strict=True))
            accepted = 1.0 - distance / 2.0
            c = 1.0 / (1.0 + math.exp(-confidence[n, k - 1]))
            total[0] += w * -math.log(q[int(labels[n, k - 1])])
            total[1] += w * distance
            total[2] += w * -(accepted * math.log(c) + (1.0 - accepted) * math.log(1.0 - c))
            weight += w
    return total[0] / weight, total[1] / weight, total[2] / weight


def case() -> tuple[Array, Array, Array, Array, Array]:
    rng = np.random.default_rng(5)
    known = np.arange(GAMMA) < np.array([4, 2, 1])[:, None]
    draft, target = rng.normal(0.0, 2.0, (2, N, GAMMA, V))
    return draft, target, rng.normal(0.0, 2.0, (N, GAMMA)), rng.integers(V, size=(N, GAMMA)).astype(float), known


def losses(draft: object, target: Array, confidence: object, labels: Array, known: Array) -> Losses:
    return block_losses(
        draft,  # type: ignore[arg-type]
        torch.from_numpy(target),
        confidence,  # type: ignore[arg-type]
        torch.from_numpy(labels).long(),
        torch.from_numpy(known),
    )


def test_losses_equal_plain_loops() -> None:
    draft, target, confidence, labels, known = case()
    found = losses(torch.from_numpy(draft), target, torch.from_numpy(confidence), labels, known)
    expected = plain(draft, target, confidence, labels, known)
    assert [float(term) for term in found[1:]] == pytest.approx(expected, rel=1e-6)
    assert float(found.total) == pytest.approx(0.1 * expected[0] + 0.9 * expected[1] + expected[2], rel=1e-6)


def test_gradients_equal_finite_differences() -> None:
    draft, target, confidence, labels, known = case()
    draft_t = torch.from_numpy(draft.copy()).requires_grad_()
    confidence_t = torch.from_numpy(confidence.copy()).requires_grad_()
    losses(draft_t, target, confidence_t, labels, known).total.backward()

    def drafts(changed: Array) -> float:
        # The acceptance probability is a label: the confidence term has no say in what is drafted.
        cross_entropy, distance, _ = plain(changed, target, confidence, labels, known)
        return 0.1 * cross_entropy + 0.9 * distance

    def doubts(changed: Array) -> float:
        return plain(draft, target, changed, labels, known)[2]

    for function, point, gradient in ((drafts, draft, draft_t.grad), (doubts, confidence, confidence_t.grad)):
        numeric = np.empty_like(point)
        for index in np.ndindex(point.shape):
            step = np.zeros_like(point)
            step[index] = 1e-6
            numeric[index] = (function(point + step) - function(point - step)) / 2e-6
        assert gradient.numpy() == pytest.approx(numeric, abs=1e-8)
