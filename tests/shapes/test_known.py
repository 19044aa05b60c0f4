"""Shapes of known models against the sizes that their makers publish."""

from __future__ import annotations

import pytest

from sglang_dspark.shapes.known import known, names
from sglang_dspark.shapes.model import Experts


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Qwen3-4B", 4.02e9, None),
        ("Qwen3-8B", 8.19e9, None),
        ("Qwen3-14B", 14.77e9, None),
        ("Qwen3-30B-A3B", 30.5e9, 3.3e9),
        ("DeepSeek-V4-Flash", 284e9, 13e9),
        ("DeepSeek-V4-Pro", 1.6e12, 49e9),
    ],
)
def test_parameters_are_the_published_ones(name: str, total: float, active: float | None) -> None:
    found = known(name)
    assert found is not None
    model = found.model
    tables = (1 if model.tied else 2) * model.hidden * model.vocab
    dense, routed = model.dense_weights(model.layers), model.routed_weights(model.layers)
    assert dense + routed + tables == pytest.approx(total, rel=0.02)
    if active is not None:
        assert isinstance(model.feed_forward, Experts)
        assert dense + routed * model.feed_forward.active_share() + tables == pytest.approx(active, rel=0.1)


def test_owner_and_date_do_not_matter() -> None:
    assert known("deepseek-ai/DeepSeek-V4-Flash-0731") == known("DeepSeek-V4-Flash")
    assert known("somebody/Qwen9-1B") is None
    assert len(names()) == 6
