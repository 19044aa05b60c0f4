"""The kernels compiled in advance are those that a server was seen to request."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("sglang") is None:
    pytest.skip("sglang is not installed", allow_module_level=True)

from sglang_dspark.gpu_check import warm

# What a server of the demo pair loaded on a CPU that said it was an sm_90.
SEEN = [
    ("activation", "bf16_t", "true"),
    ("clamp_position", "int64_t"),
    ("fused_rope", "true", "64", "true", "bf16_t", "bf16_t"),
    ("kvcache", "256", "256", "32", "true"),
    ("qknorm", "64", "true", "bf16_t", "true"),
]


def test_every_kernel_is_asked_for_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.kernels.ops.activation import activation
    from sglang.kernels.ops.attention import clamp_position, rope
    from sglang.kernels.ops.kvcache import kvcache
    from sglang.kernels.ops.layernorm import norm

    asked: list[tuple[str, ...]] = []

    def load(*arguments: Any, **keywords: Any) -> None:
        asked.append(tuple(str(argument) for argument in arguments))

    for module in (activation, clamp_position, rope, kvcache, norm):
        monkeypatch.setattr(module, "load_jit", load)
        if hasattr(module, "is_arch_support_pdl"):
            monkeypatch.setattr(module, "is_arch_support_pdl", lambda: True)
    for build in warm.builds(64, 2).values():
        build()
    assert sorted(asked) == SEEN
