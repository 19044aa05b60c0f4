"""A model's shape: what it stores, and what a step over it must read, move and multiply.

Counts are of the whole model unless a docstring says "per GPU". Norms, biases and routing tables are left out: together
well under 1 % of any model here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.shapes.gpus import Format

Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Floats = NDArray[np.float64]

# SGLang's pools of compressed attention: tokens of a page, fp32 state, decode steps between evictions of a window
# (``SGLANG_SWA_EVICTION_INTERVAL``).
_PAGE = 256
_STATE_BYTES = 4.0
_EVICTION_STEPS = 128


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attention(Shape, ABC):
    """Attention of all of a model's layers.

    Attributes:
        heads: Query heads.
    """

    heads: Count

    @abstractmethod
    def parameters(self, hidden: int) -> float:
        """Projection weights of one layer."""

    @abstractmethod
    def kv_bytes_per_token(self, layers: int, tp: int) -> float:
        """Bytes that one more context token stores per GPU, of ``layers`` layers."""

    def read_bytes_per_context_token(self, layers: int, tp: int) -> float:
        """Bytes that decoding reads per GPU for every context token of a request."""
        return self.kv_bytes_per_token(layers, tp)

    @abstractmethod
    def flops_per_pair(self, layers: int) -> float:
        """Operations of one query token over one context token, in prefill."""

    def fixed_read_bytes(self, layers: int) -> float:
        """Bytes that every query token reads per GPU whatever its context."""
        return 0.0

    @abstractmethod
    def draft_kv_bytes_per_token(self, layers: int, tp: int) -> float:
        """Bytes that one more context token stores per GPU in a draft model of ``layers`` such layers."""

    def slot_bytes(self, layers: int, *, speculative: bool) -> float:
        """Bytes that a request slot reserves per GPU whatever its context, the drafter's window included."""
        return 0.0

    def slot_position_bytes(self, layers: int) -> float:
        """The same for each token that a round may write ahead."""
        return 0.0


class GroupedQuery(Attention):
    """Grouped-query attention. KV heads are split over GPUs, and copied where there are fewer of them than GPUs.

    Attributes:
        kv_bytes: Bytes of one stored KV element.
    """

    kind: Literal["gqa"]
    kv_heads: Count
    head_dim: Count
    kv_bytes: Bytes = 2.0

    def parameters(self, hidden: int) -> float:
        return hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def kv_bytes_per_token(self, layers: int, tp: int) -> float:
        return layers * 2 * -(-self.kv_heads // tp) * self.head_dim * self.kv_bytes

    def flops_per_pair(self, layers: int) -> float:
        return layers * 4 * self.heads * self.head_dim

    def draft_kv_bytes_per_token(self, layers: int, tp: int) -> float:
        return self.kv_bytes_per_token(layers, tp)


class Latent(Attention):
    """Multi-head latent attention (DeepSeek-V2/V3): one latent for all heads, which every GPU stores whole.

    Attributes:
        kv_bytes: Bytes of one stored latent element.
    """

    kind: Literal["mla"]
    q_lora_rank: Count
    kv_lora_rank: Count
    nope_dim: Count
    rope_dim: Count
    value_dim: Count
    kv_bytes: Bytes = 2.0

    def parameters(self, hidden: int) -> float:
        query = self.q_lora_rank * (hidden + self.heads * (self.nope_dim + self.rope_dim))
        down = hidden * (self.kv_lora_rank + self.rope_dim)
        up = self.kv_lora_rank * self.heads * (self.nope_dim + self.value_dim)
        return query + down + up + self.heads * self.value_dim * hidden

    def kv_bytes_per_token(self, layers: int, tp: int) -> float:
        return layers * (self.kv_lora_rank + self.rope_dim) * self.kv_bytes

    def flops_per_pair(self, layers: int) -> float:
        return layers * 2 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    def draft_kv_bytes_per_token(self, layers: int, tp: int) -> float:
        return self.kv_bytes_per_token(layers, tp)


class CompressedLatent(Attention):
    """Compressed attention of DeepSeek-V4: a short window of plain latents, and compressed rows beyond it.

    ``sparse_layers`` keep one row for every ``sparse_ratio`` tokens, and an index row by which each query picks
    ``top_k`` of them; ``pooled_layers`` keep one row for every ``pooled_ratio`` tokens and read all; the remaining
    layers see the window only. Defaults are the row layouts of SGLang's ``DeepSeekV4TokenToKVPool``: 448 FP8 + 64 bf16
    values + scales, and FP8 index rows. Every GPU of a tensor-parallel group stores the rows whole.

    Attributes:
        head_dim: Width of a head and of the latent.
        o_groups: Groups of the low-rank output projection, each to ``o_lora_rank`` values.
        index_heads: Heads of the index, ``index_dim`` wide.
        row_bytes: One latent row.
        index_row_bytes: One index row.
    """

    kind: Literal["csa"]
    head_dim: Count
    q_lora_rank: Count
    o_lora_rank: Count
    o_groups: Count
    window: Count
    sparse_layers: int = Field(ge=0)
    sparse_ratio: Count
    top_k: Count
    index_heads: Count
    index_dim: Count
    pooled_layers: int = Field(ge=0)
    pooled_ratio: Count
    row_bytes: Bytes = 584.0
    index_row_bytes: Bytes = 132.0

    def parameters(self, hidden: int) -> float:
        wide = self.heads * self.head_dim
        query = self.q_lora_rank * (hidden + wide)
        output = self.o_lora_rank * (wide + self.o_groups * hidden)
        return query + hidden * self.head_dim + output

    def kv_bytes_per_token(self, layers: int, tp: int) -> float:
        sparse = self.sparse_layers * (self.row_bytes + self.index_row_bytes) / self.sparse_ratio
        return sparse + self.pooled_layers * self.row_bytes / self.pooled_ratio

    def read_bytes_per_context_token(self, layers: int, tp: int) -> float:
        index = self.sparse_layers * self.index_row_bytes / self.sparse_ratio
        return index + self.pooled_layers * self.row_bytes / self.pooled_ratio

    def flops_per_pair(self, layers: int) -> float:
        index = self.sparse_layers * 2 * self.index_heads * self.index_dim / self.sparse_ratio
        return index + self.pooled_layers * 4 * self.heads * self.head_dim / self.pooled_ratio

    def fixed_read_bytes(self, layers: int) -> float:
        return (layers * self.window + self.sparse_layers * self.top_k) * self.row_bytes

    def draft_kv_bytes_per_token(self, layers: int, tp: int) -> float:
        # Draft layers keep the window only (``DSparkAttention``: compress ratio 0).
        return 0.0

    def slot_bytes(self, layers: int, *, speculative: bool) -> float:
        # The live window and four cached tails, each with a page to align them (``compute_swa_request_cap``,
        # ``_resolve_swa_prefix_tails``); the state that pools a ratio's tokens (``_get_c128_state_fixed_bytes``).
        window = 5 * (self.window + _PAGE) * self._window_token_bytes(layers, speculative)
        ring = self.pooled_ratio * (2 if speculative else 1)
        return window + self.pooled_layers * ring * 2 * self.head_dim * _STATE_BYTES

    def slot_position_bytes(self, layers: int) -> float:
        # Windows are evicted every _EVICTION_STEPS steps; overlap scheduling keeps two rounds allocated.
        return (_EVICTION_STEPS + 2) * self._window_token_bytes(layers, speculative=True)

    def _window_token_bytes(self, layers: int, speculative: bool) -> float:
        """One token of all windows with its part of the sparse layers' state (``_get_bytes_per_swa_token``); SGLang
        counts the drafter as one more layer."""
        ring = self.sparse_ratio * (4 if speculative else 2)
        state = ring / _PAGE * 4 * (self.head_dim + self.index_dim) * _STATE_BYTES
        target = layers * self.row_bytes + self.sparse_layers * state
        return target * (layers + 1) / layers if speculative else target


class FeedForward(Shape, ABC):
    """The feed-forward part of all layers. ``routed`` weights are read as far as tokens touch them, the rest always."""

    intermediate: Count

    @abstractmethod
    def always_read(self, hidden: int) -> float:
        """Weights of one layer that every step reads and every token multiplies."""

    @abstractmethod
    def routed(self, hidden: int) -> float:
        """Weights of one layer's routed experts together."""

    @abstractmethod
    def active_share(self) -> float:
        """Share of the routed weights that one token multiplies."""

    def touched_share(self, tokens: Floats) -> Floats:
        """Expected share of the routed weights that ``tokens`` touch together, each choosing independently."""
        share: Floats = 1.0 - (1.0 - self.active_share()) ** tokens
        return share


class Dense(FeedForward):
    """A gated feed-forward layer: three matrices."""

    kind: Literal["dense"]

    def always_read(self, hidden: int) -> float:
        return 3 * hidden * self.intermediate

    def routed(self, hidden: int) -> float:
        return 0.0

    def active_share(self) -> float:
        return 1.0


class Experts(FeedForward):
    """A mixture of gated experts of width ``intermediate``.

    Attributes:
        experts: Routed experts, ``active`` of which each token uses.
        shared: Experts that every token uses.
        format: Stored and multiplied as.
        bytes_per_weight: Including block scales: 0.53125 for MXFP4.
    """

    kind: Literal["moe"]
    experts: Count
    active: Count
    shared: int = Field(default=0, ge=0)
    format: Format
    bytes_per_weight: Bytes

    def always_read(self, hidden: int) -> float:
        return self.shared * 3 * hidden * self.intermediate + hidden * self.experts

    def routed(self, hidden: int) -> float:
        return self.experts * 3 * hidden * self.intermediate

    def active_share(self) -> float:
        return min(self.active / self.experts, 1.0)


class ModelShape(Shape):
    """A target model.

    Attributes:
        format: Of the dense weights and their multiplications.
        bytes_per_weight: Of the dense weights.
        head_bytes_per_weight: Of the embedding and the LM head.
        tied: Embedding and LM head are one matrix.
        streams: Residual streams (4 with DeepSeek-V4's hyper-connections).
    """

    layers: Count
    hidden: Count
    vocab: Count
    attention: Annotated[GroupedQuery | Latent | CompressedLatent, Field(discriminator="kind")]
    feed_forward: Annotated[Dense | Experts, Field(discriminator="kind")]
    format: Format = "bf16"
    bytes_per_weight: Bytes = 2.0
    head_bytes_per_weight: Bytes = 2.0
    tied: bool = False
    streams: Count = 1

    def dense_weights(self, layers: int) -> float:
        """Weights of ``layers`` layers that every step reads: attention, feed-forward or shared experts, router."""
        return layers * (self.attention.parameters(self.hidden) + self.feed_forward.always_read(self.hidden))

    def routed_weights(self, layers: int) -> float:
        """Weights of the routed experts of ``layers`` layers."""
        return layers * self.feed_forward.routed(self.hidden)

    def layer_bytes(self, layers: int) -> float:
        """Stored bytes of ``layers`` layers."""
        routed = self.routed_weights(layers) * self.routed_bytes_per_weight()
        return self.dense_weights(layers) * self.bytes_per_weight + routed

    def routed_bytes_per_weight(self) -> float:
        feed_forward = self.feed_forward
        return feed_forward.bytes_per_weight if isinstance(feed_forward, Experts) else self.bytes_per_weight

    def routed_format(self) -> Format:
        return self.feed_forward.format if isinstance(self.feed_forward, Experts) else self.format

    def weight_bytes(self) -> float:
        """Stored bytes of the whole model."""
        tables = 1 if self.tied else 2
        return self.layer_bytes(self.layers) + tables * self.hidden * self.vocab * self.head_bytes_per_weight

    def kv_bytes_per_token(self, tp: int) -> float:
        """Bytes that one context token stores on all ``tp`` GPUs together, copies included."""
        return tp * self.attention.kv_bytes_per_token(self.layers, tp)


class DraftShape(Shape):
    """A DSpark draft model: layers as its target's, the target's embedding and LM head, a Markov head of its own.

    Attributes:
        layers: Draft layers.
        block: Tokens of the backbone's one pass for each request: the anchor and the masks.
        hidden_states: Target layers whose hidden states are captured and injected.
        markov_rank: Rank of the Markov head.
    """

    layers: Count
    block: Count
    hidden_states: Count
    markov_rank: Count

    def weight_bytes(self, target: ModelShape) -> float:
        """Stored bytes of the draft model."""
        projection = self.hidden_states * target.hidden**2 * target.bytes_per_weight
        markov = 2 * self.markov_rank * target.vocab * target.head_bytes_per_weight
        return target.layer_bytes(self.layers) + projection + markov

    def kv_bytes_per_token(self, target: ModelShape, tp: int) -> float:
        """Bytes that one context token stores for the draft on all ``tp`` GPUs together."""
        return tp * target.attention.draft_kv_bytes_per_token(self.layers, tp)
