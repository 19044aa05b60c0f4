"""CPU forms of what SGLang does only on a GPU; ``sglang_dspark.serving.hooks`` lists where each is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class _OnCuda:
    """A configuration that says its device is "cuda"."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return "cuda" if name == "device" else getattr(self._config, name)


def handle_dspark(original: Callable[[Any], None], server_args: Any) -> None:
    """Around ``_handle_dspark``, which refuses the CPU on purpose: shows it another device for that one check."""
    from sglang.srt.arg_groups import speculative_hook

    logger.warning("DSPARK runs on the CPU engine of sglang-dspark: for development and tests, not for speed")
    view = speculative_hook.resolving_view
    speculative_hook.resolving_view = lambda args: _OnCuda(view(args))
    try:
        original(server_args)
    finally:
        speculative_hook.resolving_view = view


def record_stream(original: Callable[..., None], tensor: torch.Tensor, stream: Any) -> None:
    """Around ``torch.Tensor.record_stream``: there are no streams on the CPU."""
    if tensor.device.type != "cpu":
        original(tensor, stream)


def no_fused_kv_write(model: Any, pool: Any) -> None:
    """In place of ``_fused_kv_write_bundle``: None makes the draft write its KV layer by layer."""


def without_fused_rope(result: None, attention: Any, *arguments: Any, **keywords: Any) -> None:
    """After ``DFlashAttention.__init__``: norm and rope in PyTorch."""
    attention.use_table_qk_norm_rope = False


def linear(
    original: Callable[..., torch.Tensor], input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Around ``torch.nn.functional.linear``: in bfloat16, multiply in float32 and round the result once.

    PyTorch's products of bfloat16 take ten times as long on a CPU that has no instructions for them.
    """
    if input.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16 or input.device.type != "cpu":
        return original(input, weight, bias)
    return original(input.float(), weight.float(), None if bias is None else bias.float()).bfloat16()
