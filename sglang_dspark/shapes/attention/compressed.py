"""Compressed attention of DeepSeek-V4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field

from sglang_dspark.shapes.attention.base import Attention
from sglang_dspark.shapes.base import Bytes, Count
from sglang_dspark.shapes.fields import Fields

# Compression ratio by layer type: names of ``transformers``, and ratios of DeepSeek's own configs.
_RATIOS: Final = {
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
    "compressed:0": 0,
    "compressed:4": 4,
    "compressed:128": 128,
}
_INDEXED: Final = 4
# SGLang's pools of compressed attention: tokens of a page, fp32 state, decode steps between evictions of a window
# (``SGLANG_SWA_EVICTION_INTERVAL``).
_PAGE: Final = 256
_STATE_BYTES: Final = 4.0
_EVICTION_STEPS: Final = 128


class CompressedLatent(Attention):
    """Attention over a short window of plain latents, and one compressed row per ``ratio`` tokens beyond it.

    With an index each query reads ``top_k`` of the rows, without one all of them; with ratio 0 only the window. The
    defaults are the row layouts of SGLang's ``DeepSeekV4TokenToKVPool``: 448 FP8 + 64 bf16 values + scales, and FP8
    index rows. Every GPU of a tensor-parallel group stores whole rows.

    Attributes:
        heads: Query heads.
        head_dim: Width of a head and of the latent.
        q_lora_rank: Rank of the query projection.
        o_lora_rank: Rank of the output projection in each group.
        o_groups: Groups of the low-rank output projection, each to ``o_lora_rank`` values.
        window: Tokens of the window.
        ratio: Tokens of a compressed row; 0 without compression.
        top_k: Rows that a query reads with an index.
        index_heads: Heads of the index; 0 without one.
        index_dim: Width of an index head.
        row_bytes: Bytes of one latent row.
        index_row_bytes: Bytes of one index row.
    """

    kind: Literal["csa"]
    latent: ClassVar[bool] = True
    slow_launch: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]] = ("self_attn", "attn")
    unquantized: ClassVar[frozenset[str]] = frozenset({"compressor", "indexer.compressor", "indexer.weights_proj"})
    heads: Count
    head_dim: Count
    q_lora_rank: Count
    o_lora_rank: Count
    o_groups: Count
    window: Count
    ratio: int = Field(ge=0)
    top_k: int = Field(default=0, ge=0)
    index_heads: int = Field(default=0, ge=0)
    index_dim: int = Field(default=0, ge=0)
    row_bytes: Bytes = 584.0
    index_row_bytes: Bytes = 132.0

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type in _RATIOS or (layer_type == "sliding_attention" and fields.has("o_lora_rank"))

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        ratio = _RATIOS.get(layer_type, 0)
        index = ratio == _INDEXED
        names = {"top_k": "index_topk", "index_heads": "index_n_heads", "index_dim": "index_head_dim"}
        indexed = {ours: fields.number(theirs) for ours, theirs in names.items()}
        return {
            "kind": "csa",
            "heads": fields.number("num_attention_heads"),
            "head_dim": fields.number("head_dim"),
            "q_lora_rank": fields.number("q_lora_rank"),
            "o_lora_rank": fields.number("o_lora_rank"),
            "o_groups": fields.number("o_groups"),
            "window": fields.number("sliding_window"),
            "ratio": ratio,
            **(indexed if index else {}),
        }

    @property
    def _overlap(self) -> int:
        """Row series of a compressor: in layers with an index, rows overlap."""
        return 2 if self.index_heads else 1

    def modules(self, hidden: int) -> Mapping[str, float]:
        wide = self.heads * self.head_dim
        compressor = 2 * hidden * self._overlap if self.ratio else 0
        return {
            "wq_a": hidden * self.q_lora_rank,
            "wq_b": self.q_lora_rank * wide,
            "wkv": hidden * self.head_dim,
            "wo_a": wide * self.o_lora_rank,
            "wo_b": self.o_groups * self.o_lora_rank * hidden,
            "compressor": compressor * self.head_dim,
            "indexer.wq_b": self.q_lora_rank * self.index_heads * self.index_dim,
            "indexer.weights_proj": hidden * self.index_heads,
            "indexer.compressor": compressor * self.index_dim,
        }

    def kv_bytes_per_token(self, tp: int) -> float:
        if not self.ratio:
            return 0.0
        index = self.index_row_bytes if self.index_heads else 0.0
        return self.layers * (self.row_bytes + index) / self.ratio

    def window_bytes(self, tp: int) -> float:
        return self.layers * self.window * self.row_bytes

    def read_bytes_per_context_token(self, tp: int) -> float:
        if not self.ratio:
            return 0.0
        return self.layers * (self.index_row_bytes if self.index_heads else self.row_bytes) / self.ratio

    def flops_per_pair(self) -> float:
        if not self.ratio:
            return 0.0
        index = 2 * self.index_heads * self.index_dim
        return self.layers * (index or 4 * self.heads * self.head_dim) / self.ratio

    def fixed_read_bytes(self, tp: int) -> float:
        return self.layers * (self.window + self.top_k) * self.row_bytes

    def of_draft(self, layers: int) -> Self:
        # Draft layers keep the window only (``DSparkAttention``: compress ratio 0).
        return self.model_copy(update={"layers": layers, "ratio": 0, "top_k": 0, "index_heads": 0, "index_dim": 0})

    def slot_bytes(self, model_layers: int, tp: int, *, speculative: bool) -> float:
        # The live window and four cached tails, each with a page to align them (``compute_swa_request_cap``,
        # ``_resolve_swa_prefix_tails``); the state that pools a ratio's tokens (``_get_c128_state_fixed_bytes``).
        window = 5 * (self.window + _PAGE) * self._window_token_bytes(model_layers, speculative)
        return window + self.state_bytes(tp) * (2 if speculative else 1)

    def state_bytes(self, tp: int) -> float:
        return 0.0 if self.index_heads else self.layers * self.ratio * 2 * self.head_dim * _STATE_BYTES

    def slot_position_bytes(self, model_layers: int, tp: int) -> float:
        # Windows are evicted every _EVICTION_STEPS steps; overlap scheduling keeps two rounds allocated.
        return (_EVICTION_STEPS + 2) * self._window_token_bytes(model_layers, speculative=True)

    def _window_token_bytes(self, model_layers: int, speculative: bool) -> float:
        """Bytes of one token in all windows, including its part of the indexed layers' state.

        ``_get_bytes_per_swa_token``; SGLang counts the drafter as one more layer.
        """
        ring = self.ratio * (4 if speculative else 2)
        state = ring / _PAGE * 4 * (self.head_dim + self.index_dim) * _STATE_BYTES if self.index_heads else 0.0
        target = self.layers * (self.row_bytes + state)
        return target * (model_layers + 1) / model_layers if speculative else target
