"""Kimi Delta Attention (Kimi Linear)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sglang_dspark.shapes.attention.base import LINEAR, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class KimiDelta(Recurrent):
    """A delta rule with a gate for each channel: each head keeps a square matrix.

    Attributes:
        heads: Number of heads.
        head_dim: Width of a head.
        kernel: Width of the convolutions in tokens.
        full_rank_gate: The output gate is a single projection instead of two of rank ``head_dim``.
    """

    kind: Literal["kimi_delta"]
    heads: Count
    head_dim: Count
    kernel: Count
    full_rank_gate: bool = False

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == LINEAR and (fields.has("linear_attn_config") or fields.has("linear_num_heads"))

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        nested = fields.has("linear_attn_config")
        inner = fields.inner("linear_attn_config") if nested else fields
        return {
            "kind": "kimi_delta",
            "heads": inner.number("num_heads" if nested else "linear_num_heads"),
            "head_dim": inner.number("head_dim" if nested else "linear_head_dim"),
            "kernel": inner.number("short_conv_kernel_size" if nested else "linear_conv_kernel_dim"),
            "full_rank_gate": inner.flag("use_full_rank_gate"),
            "state_element_bytes": fields.state_bytes,
        }

    def modules(self, hidden: int) -> Mapping[str, float]:
        wide = self.heads * self.head_dim
        low_rank = self.head_dim * (hidden + wide)
        return {
            "q_proj": hidden * wide,
            "k_proj": hidden * wide,
            "v_proj": hidden * wide,
            "conv1d": 3 * wide * self.kernel,
            "b_proj": hidden * self.heads,
            "f_proj": low_rank,
            "g_proj": hidden * wide if self.full_rank_gate else low_rank,
            "o_proj": wide * hidden,
        }

    def state_elements(self) -> tuple[float, float]:
        wide = self.heads * self.head_dim
        return wide * self.head_dim, 3 * wide * (self.kernel - 1)
