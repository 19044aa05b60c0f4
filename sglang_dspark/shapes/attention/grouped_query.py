"""Grouped-query attention, over the whole context or a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from sglang_dspark.shapes.attention.base import FULL, SLIDING, Attention
from sglang_dspark.shapes.base import Bytes, Count
from sglang_dspark.shapes.fields import Fields

# Ratio of the pools of sliding and full layers in tokens (``swa_full_tokens_ratio``).
_WINDOW_POOL: Final = 0.8
# Architectures with a gate that no config field shows.
_GATED: Final = ("afmoe", "muse_glimmer_text")


class GroupedQuery(Attention):
    """Grouped-query attention. KV heads are split over GPUs, and copied if there are fewer heads than GPUs.

    Attributes:
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        value_dim: Width of a value head; ``head_dim`` if None.
        window: Tokens that a query attends to; None for the whole context.
        gate: Outputs are multiplied by a projection of the same width.
        values_are_keys: The layer has no value projection and uses the keys as values.
        shares_kv: The layer uses the keys and values of an earlier layer.
        kv_bytes: Bytes of one stored KV element.
    """

    kind: Literal["gqa"]
    heads: Count
    kv_heads: Count
    head_dim: Count
    value_dim: Count | None = None
    window: Count | None = None
    gate: bool = False
    values_are_keys: bool = False
    shares_kv: bool = Field(default=False)
    kv_bytes: Bytes = 2.0

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type in (FULL, SLIDING)

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        sliding = layer_type == SLIDING
        heads = fields.number("num_attention_heads", "n_head")
        one = fields.flag("multi_query") and not fields.flag("new_decoder_architecture")
        kv_heads = fields.number(
            "num_key_value_heads", "num_kv_heads", "num_attention_groups", "multi_query_group_num", default=heads
        )
        kv_heads = 1 if one else kv_heads
        head_dim = fields.number("head_dim", "attention_head_dim", "kv_channels", default=0) or fields.number(
            "hidden_size", "n_embd"
        ) // max(1, heads)
        value_dim = fields.number("v_head_dim", default=head_dim)
        # Sliding layers may have other numbers of heads.
        if sliding:
            other = fields.inner("attention_other_setting") if fields.has("attention_other_setting") else fields
            heads = other.number("swa_num_attention_heads", "num_sliding_attention_heads", default=0) or other.number(
                "num_attention_heads", default=heads
            )
            kv_heads = fields.number("swa_num_key_value_heads", default=kv_heads)
            head_dim, shared = fields.number("swa_head_dim", default=head_dim), head_dim
            value_dim = fields.number("swa_v_head_dim", default=head_dim if shared == value_dim else value_dim)
        else:
            kv_heads = fields.number("num_global_key_value_heads", default=kv_heads)
            if fields.number("global_head_dim", default=0):
                head_dim = value_dim = fields.number("global_head_dim")
        return {
            "kind": "gqa",
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "value_dim": None if value_dim == head_dim else value_dim,
            "window": fields.number("sliding_window", "sliding_window_size", "attention_chunk_size")
            if sliding
            else None,
            "gate": fields.flag(
                "attn_output_gate",
                "use_output_gate",
                default="linear_num_value_heads" in fields or fields.config.get("model_type") in _GATED,
            ),
            "values_are_keys": not sliding and fields.flag("attention_k_eq_v"),
            "kv_bytes": fields.kv_bytes,
        }

    def splits(self, tp: int) -> bool:
        return super().splits(tp) and (self.kv_heads % tp == 0 or tp % self.kv_heads == 0)

    def modules(self, hidden: int) -> Mapping[str, float]:
        value_dim = self.value_dim or self.head_dim
        keys = 0 if self.shares_kv else self.kv_heads * hidden
        return {
            "q_proj": hidden * self.heads * self.head_dim,
            "k_proj": keys * self.head_dim,
            "v_proj": 0 if self.values_are_keys else keys * value_dim,
            "o_proj": self.heads * value_dim * hidden,
            "gate_proj": self.heads * value_dim * hidden if self.gate else 0,
        }

    def _layer_bytes(self, tp: int) -> float:
        """One token of one layer."""
        return -(-self.kv_heads // tp) * (self.head_dim + (self.value_dim or self.head_dim)) * self.kv_bytes

    def kv_bytes_per_token(self, tp: int) -> float:
        return 0.0 if self.window or self.shares_kv else self.layers * self._layer_bytes(tp)

    def window_bytes(self, tp: int) -> float:
        return 0.0 if self.shares_kv else self.layers * self._layer_bytes(tp) * (self.window or 0)

    def pool_bytes_per_token(self, tp: int) -> float:
        if self.shares_kv:
            return 0.0
        return self.layers * self._layer_bytes(tp) * (_WINDOW_POOL if self.window else 1.0)

    def read_bytes_per_context_token(self, tp: int) -> float:
        return 0.0 if self.window else self.layers * self._layer_bytes(tp)

    def flops_per_pair(self) -> float:
        value_dim = self.value_dim or self.head_dim
        return 0.0 if self.window else self.layers * 2 * self.heads * (self.head_dim + value_dim)

    def decode_read_bytes(self, tp: int) -> float:
        return self.layers * self._layer_bytes(tp) * (self.window or 0)
