"""Multi-head latent attention, dense or with an index that selects the tokens that a query reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from sglang_dspark.shapes.attention.base import FULL, Attention
from sglang_dspark.shapes.base import Bytes, Count
from sglang_dspark.shapes.fields import Fields

# Layout of an index key: FP8 values with a scale for each 128 (``DSATokenToKVPool``).
_INDEX_SCALED: Final = 128
_SCALE_BYTES: Final = 4


class Latent(Attention):
    """Multi-head latent attention (DeepSeek-V2/V3): one latent for all heads, stored whole on every GPU.

    Attributes:
        heads: Query heads.
        q_lora_rank: Rank of the query projection; None for a full one.
        kv_lora_rank: Width of the latent.
        nope_dim: Width of a query head without position.
        rope_dim: Width of the key with a rotary position, which all heads share.
        value_dim: Width of a value head.
        kv_bytes: Bytes of one stored latent element.
        index_heads: Heads of the index of DeepSeek Sparse Attention; 0 without one.
        index_dim: Width of an index head.
        top_k: Latents that a query reads with an index.
        gate: Outputs are multiplied by a projection of the same width.
    """

    kind: Literal["mla"]
    latent: ClassVar[bool] = True
    unquantized: ClassVar[frozenset[str]] = frozenset({"indexer.weights_proj"})
    heads: Count
    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    nope_dim: Count
    rope_dim: int = Field(ge=0)
    value_dim: Count
    kv_bytes: Bytes = 2.0
    index_heads: int = Field(default=0, ge=0)
    index_dim: int = Field(default=0, ge=0)
    top_k: int = Field(default=0, ge=0)
    gate: bool = False

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == FULL and fields.has("kv_lora_rank")

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        rank, rope = fields.number("kv_lora_rank"), fields.number("qk_rope_head_dim", zero=True)
        # Layers may reuse the selection of an earlier layer's index.
        index = fields.has("index_topk") and fields.get("indexer_types", default="full") != "shared"
        if fields.has("indexer_types"):
            # Redundant with indexer_types.
            fields.get("index_topk_freq", default=None)
        kv_bytes = fields.kv_bytes
        if index and kv_bytes == 1.0:
            # SGLang's rows: FP8 latents with a scale for each 128, rotary parts in bf16.
            kv_bytes = (rank + rank // _INDEX_SCALED * _SCALE_BYTES + 2 * rope) / (rank + rope)
        if index and kv_bytes == 2.0:
            fields.notes.append("on Blackwell GPUs SGLang keeps the KV of indexed latent attention in FP8 by default")
        return {
            "kind": "mla",
            "heads": fields.number("num_attention_heads"),
            # Null is a full query projection; only an absent field is missing.
            "q_lora_rank": fields.number("q_lora_rank", null=True),
            "kv_lora_rank": rank,
            "nope_dim": fields.number("qk_nope_head_dim"),
            "rope_dim": rope,
            "value_dim": fields.number("v_head_dim"),
            "kv_bytes": kv_bytes,
            "index_heads": fields.number("index_n_heads") if index else 0,
            "index_dim": fields.number("index_head_dim") if index else 0,
            "top_k": fields.number("index_topk") if fields.has("index_topk") else 0,
            "gate": fields.flag("mla_use_output_gate", default=fields.config.get("model_type") == "hy_v4"),
        }

    def modules(self, hidden: int) -> Mapping[str, float]:
        query = self.heads * (self.nope_dim + self.rope_dim)
        low_rank = self.q_lora_rank or hidden
        return {
            "q_a_proj": hidden * self.q_lora_rank if self.q_lora_rank else 0,
            "q_b_proj": low_rank * query,
            "kv_a_proj_with_mqa": hidden * (self.kv_lora_rank + self.rope_dim),
            "kv_b_proj": self.kv_lora_rank * self.heads * (self.nope_dim + self.value_dim),
            "o_proj": self.heads * self.value_dim * hidden,
            "g_proj": self.heads * self.value_dim * hidden if self.gate else 0,
            "indexer.wq_b": low_rank * self.index_heads * self.index_dim,
            "indexer.wk": hidden * self.index_dim,
            "indexer.weights_proj": hidden * self.index_heads,
        }

    def _index_bytes(self) -> float:
        return self.index_dim + -(-self.index_dim // _INDEX_SCALED) * _SCALE_BYTES

    def _row_bytes(self) -> float:
        return (self.kv_lora_rank + self.rope_dim) * self.kv_bytes

    def kv_bytes_per_token(self, tp: int) -> float:
        return self.layers * (self._row_bytes() + self._index_bytes())

    def read_bytes_per_context_token(self, tp: int) -> float:
        return self.layers * (self._index_bytes() if self.top_k else self._row_bytes())

    def flops_per_pair(self) -> float:
        if self.top_k:
            return self.layers * 2 * self.index_heads * self.index_dim
        return self.layers * 2 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    def fixed_read_bytes(self, tp: int) -> float:
        return self.layers * self.top_k * self._row_bytes()
