"""Gated delta networks (Qwen3-Next, Qwen3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sglang_dspark.shapes.attention.base import LINEAR, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class GatedDelta(Recurrent):
    """A gated delta rule: each value head keeps a matrix of ``key_dim`` by ``value_dim``.

    Attributes:
        key_heads: Key heads.
        key_dim: Width of a key head.
        value_heads: Value heads.
        value_dim: Width of a value head.
        kernel: Width of the convolution in tokens.
    """

    kind: Literal["gated_delta"]
    names: ClassVar[tuple[str, ...]] = ("linear_attn",)
    key_heads: Count
    key_dim: Count
    value_heads: Count
    value_dim: Count
    kernel: Count

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == LINEAR and fields.has("linear_num_value_heads")

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        return {
            "kind": "gated_delta",
            "key_heads": fields.number("linear_num_key_heads"),
            "key_dim": fields.number("linear_key_head_dim"),
            "value_heads": fields.number("linear_num_value_heads"),
            "value_dim": fields.number("linear_value_head_dim"),
            "kernel": fields.number("linear_conv_kernel_dim"),
            "state_element_bytes": fields.state_bytes,
        }

    @property
    def _wide(self) -> tuple[int, int]:
        return self.key_heads * self.key_dim, self.value_heads * self.value_dim

    def modules(self, hidden: int) -> Mapping[str, float]:
        keys, values = self._wide
        return {
            "in_proj_qkv": hidden * (2 * keys + values),
            "in_proj_z": hidden * values,
            "in_proj_b": hidden * self.value_heads,
            "in_proj_a": hidden * self.value_heads,
            "conv1d": (2 * keys + values) * self.kernel,
            "out_proj": values * hidden,
        }

    def state_elements(self) -> tuple[float, float]:
        keys, values = self._wide
        return values * self.key_dim, (2 * keys + values) * (self.kernel - 1)
