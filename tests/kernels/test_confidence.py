"""Confidence and survival against the reference, and survival against the policy's own."""

from __future__ import annotations

import pytest
import torch

from dspark_kernels.confidence import confidence_block, reference_confidence
from sglang_dspark.policy import survival
from tests.kernels.draft_inputs import DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "gamma", "hidden", "rank"), [(1, 1, 8, 3), (3, 7, 700, 32), (2, 16, 512, 0)])
def test_confidences_are_the_references(dtype: torch.dtype, rows: int, gamma: int, hidden: int, rank: int) -> None:
    random = torch.Generator().manual_seed(rows)
    state = torch.randn(rows, gamma, hidden, generator=random).to(dtype)
    anchors = torch.randint(0, 50, (rows,), generator=random)
    drafts = torch.randint(0, 50, (rows, gamma), generator=random)
    w1 = torch.randn(50, rank, generator=random).to(dtype) if rank else None
    weight = torch.randn(hidden + rank, generator=random) / 10
    bias = torch.randn(1, generator=random) if gamma > 1 else None
    temperatures = torch.rand(gamma, generator=random) + 0.5 if rows > 1 else torch.tensor([1.3])
    ours = confidence_block(state, anchors, drafts, weight, bias, temperatures, w1)
    expected = reference_confidence(state, anchors, drafts, weight, bias, temperatures, w1)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    # Survival equals the policy's bit for bit, given the same confidences.
    assert torch.equal(ours.survival, torch.from_numpy(survival(ours.confidence.numpy())))
