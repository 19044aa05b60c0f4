"""The drafter's losses and their gradients against plain loops and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from sglang_dspark.drafter.base import TeacherForced  # noqa: E402
from sglang_dspark.drafter.losses import Losses, Weights  # noqa: E402
from sglang_dspark.drafter.losses import losses as all_losses  # noqa: E402

N, GAMMA, V = 3, 4, 6
RATIO = 0.7
PAPER = Weights(0.1, 0.9, 1.0, 0.0, RATIO)
EAGLE = Weights(0.0, 0.0, 0.0, 1.0, RATIO)
Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def plain(draft: Array, target: Array, confidence: Array, labels: Array, known: Array) -> tuple[float, ...]:
    """Cross entropy, L1 distance, confidence and distillation terms, one place after the other."""
    total = [0.0, 0.0, 0.0, 0.0]
    weight = 0.0
    for n in range(N):
        for k in range(1, GAMMA + 1):
            if not known[n, k - 1]:
                continue
            w = RATIO ** (k - 1)
            p, q = softmax(target[n, k - 1]), softmax(draft[n, k - 1])
            distance = sum(abs(a - b) for a, b in zip(p, q, strict=True))
            accepted = 1.0 - distance / 2.0
            c = 1.0 / (1.0 + math.exp(-confidence[n, k - 1]))
            total[0] += w * -math.log(q[int(labels[n, k - 1])])
            total[1] += w * distance
            total[2] += w * -(accepted * math.log(c) + (1.0 - accepted) * math.log(1.0 - c))
            total[3] += w * -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
            weight += w
    return tuple(term / weight for term in total)


def case() -> tuple[Array, Array, Array, Array, Array]:
    rng = np.random.default_rng(5)
    known = np.arange(GAMMA) < np.array([4, 2, 1])[:, None]
    draft, target = rng.normal(0.0, 2.0, (2, N, GAMMA, V))
    return draft, target, rng.normal(0.0, 2.0, (N, GAMMA)), rng.integers(V, size=(N, GAMMA)).astype(float), known


def losses(
    draft: object, target: Array, confidence: object, labels: Array, known: Array, weights: Weights = PAPER
) -> Losses:
    forced = TeacherForced(
        draft,  # type: ignore[arg-type]
        torch.from_numpy(target),
        confidence,  # type: ignore[arg-type]
        torch.from_numpy(labels).long(),
        torch.from_numpy(known),
    )
    return all_losses(forced, weights)


def test_losses_equal_plain_loops() -> None:
    draft, target, confidence, labels, known = case()
    expected = plain(draft, target, confidence, labels, known)
    arguments = torch.from_numpy(draft), target, torch.from_numpy(confidence), labels, known
    found = losses(*arguments)
    assert [float(term) for term in found[1:]] == pytest.approx([*expected[:3], 0.0], rel=1e-6)
    assert float(found.total) == pytest.approx(0.1 * expected[0] + 0.9 * expected[1] + expected[2], rel=1e-6)
    found = losses(*arguments, weights=EAGLE)
    assert [float(term) for term in found] == pytest.approx([expected[3], 0.0, 0.0, 0.0, expected[3]], rel=1e-6)
    # Without a confidence head there is no such term.
    found = losses(arguments[0], target, None, labels, known)
    assert float(found.total) == pytest.approx(0.1 * expected[0] + 0.9 * expected[1], rel=1e-6)


def test_acceptance_is_that_of_rejection_sampling() -> None:
    draft, target, confidence, labels, known = case()
    forced = TeacherForced(*(torch.from_numpy(array) for array in (draft, target, confidence, labels, known)))
    found = forced.acceptance().numpy()
    for n, k in np.ndindex(N, GAMMA):
        p, q = softmax(target[n, k]), softmax(draft[n, k])
        # A draft x, drawn with chance q, is accepted with chance min(1, p / q).
        assert found[n, k] == pytest.approx(sum(b * min(1.0, a / b) for a, b in zip(p, q, strict=True)))


def test_blocks_without_a_known_place_lose_nothing() -> None:
    draft, target, confidence, labels, known = case()
    found = losses(torch.from_numpy(draft), target, torch.from_numpy(confidence), labels, np.zeros_like(known))
    assert float(found.total) == 0.0


@pytest.mark.parametrize("weights", [PAPER, EAGLE])
def test_gradients_equal_finite_differences(weights: Weights) -> None:
    draft, target, confidence, labels, known = case()
    draft_t = torch.from_numpy(draft.copy()).requires_grad_()
    confidence_t = torch.from_numpy(confidence.copy()).requires_grad_()
    losses(draft_t, target, confidence_t, labels, known, weights).total.backward()

    def drafts(changed: Array) -> float:
        # The acceptance probability is a label: the confidence term has no say in what is drafted.
        terms = plain(changed, target, confidence, labels, known)
        return weights[0] * terms[0] + weights[1] * terms[1] + weights[3] * terms[3]

    def doubts(changed: Array) -> float:
        return plain(draft, target, changed, labels, known)[2]

    pairs = [(drafts, draft, draft_t.grad)]
    if weights.confidence:
        pairs.append((doubts, confidence, confidence_t.grad))
    else:
        assert confidence_t.grad is None
    for function, point, gradient in pairs:
        numeric = np.empty_like(point)
        for index in np.ndindex(point.shape):
            step = np.zeros_like(point)
            step[index] = 1e-6
            numeric[index] = (function(point + step) - function(point - step)) / 2e-6
        assert gradient.numpy() == pytest.approx(numeric, abs=1e-8)
