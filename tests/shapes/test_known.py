"""Shapes of known models against published sizes."""

from __future__ import annotations

import pytest

from sglang_dspark.shapes.known import known, names


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
    assert model.parameters() == pytest.approx(total, rel=0.02)
    if active is None:
        assert not model.is_mixture and model.active_parameters() == model.parameters()
    else:
        assert model.active_parameters() == pytest.approx(active, rel=0.06)


def test_owner_and_date_do_not_matter() -> None:
    plain, dated = known("DeepSeek-V4-Flash"), known("deepseek-ai/deepseek-v4-flash-0731")
    assert plain is not None and dated is not None
    assert plain.model == dated.model and plain.id == "deepseek-ai/DeepSeek-V4-Flash"
    assert dated.id == "deepseek-ai/DeepSeek-V4-Flash-0731"
    assert known("somebody/Qwen9-1B") is None
    assert len(names()) == 6
