"""Lightning attention (MiniMax-Text-01, MiniMax-M1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sglang_dspark.shapes.attention.base import LINEAR, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class Lightning(Recurrent):
    """Linear attention with a decay and a gated output: each head keeps a square matrix.

    Attributes:
        heads: Number of heads.
        head_dim: Width of a head.
    """

    kind: Literal["lightning"]
    heads: Count
    head_dim: Count

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == LINEAR and fields.has(
            "attn_type_list", "layernorm_linear_attention_alpha", "linear_attn_alpha_factor"
        )

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        heads = fields.number("num_attention_heads")
        head_dim = fields.number("head_dim", default=0) or fields.number("hidden_size") // heads
        return {"kind": "lightning", "heads": heads, "head_dim": head_dim, "state_element_bytes": fields.state_bytes}

    def modules(self, hidden: int) -> Mapping[str, float]:
        wide = self.heads * self.head_dim
        return {"qkv_proj": 3 * hidden * wide, "output_gate": hidden * wide, "out_proj": wide * hidden}

    def state_elements(self) -> tuple[float, float]:
        return self.heads * self.head_dim**2, 0.0
