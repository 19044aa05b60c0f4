"""Shape of a model: the dimensions that determine its storage, memory traffic and multiplications.

Counts are of the whole model unless a docstring says "per GPU". Norms, biases and routing tables are omitted: together
they are well under 1 % of any model here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sglang_dspark.shapes.attention import AnyAttention
from sglang_dspark.shapes.base import Bytes, Count, Shape, Stored
from sglang_dspark.shapes.feed_forward import Dense, Experts

Floats = NDArray[np.float64]


class ModelShape(Stored):
    """Shape of a target model.

    ``attention`` and ``feed_forward`` list the parts of its layers in groups of identical ones, in any order. A single
    mapping applies to all layers; storage fields that a group leaves out are the model's.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the hidden state.
        vocab: Tokens of the vocabulary.
        attention: Token mixers of the layers.
        feed_forward: Feed-forward parts of the layers.
        head_bytes_per_weight: Bytes per weight of the embedding and the LM head.
        tied: Embedding and LM head are one matrix.
        streams: Residual streams (4 with DeepSeek-V4's hyper-connections).
        tower_parameters: Weights of vision and audio towers, in bf16, which text does not use.
        lookup_parameters: Weights of tables, besides the embedding, of which a token reads one row.
        context_length: Longest context in tokens by the config; None where it does not say.
        notes: Assumptions made while reading the shape, for reports.
    """

    layers: Count
    hidden: Count
    vocab: Count
    attention: tuple[AnyAttention, ...] = Field(min_length=1)
    feed_forward: tuple[Annotated[Dense | Experts, Field(discriminator="kind")], ...] = Field(min_length=1)
    head_bytes_per_weight: Bytes = 2.0
    tied: bool = False
    streams: Count = 1
    tower_parameters: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    lookup_parameters: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    context_length: Count | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, content: Any) -> Any:
        """Fill in omitted fields of groups: all layers, stored like the model."""
        if not isinstance(content, Mapping):
            return content
        usual = {name: content[name] for name in ("layers", *Stored.model_fields) if name in content}
        spread = dict(content)
        for part in ("attention", "feed_forward"):
            groups = content.get(part)
            groups = [groups] if isinstance(groups, Mapping) else groups
            if isinstance(groups, (list, tuple)):
                spread[part] = [usual | dict(one) if isinstance(one, Mapping) else one for one in groups]
        return spread

    @property
    def is_mixture(self) -> bool:
        """Whether it has routed experts."""
        return any(part.routed(self.hidden) for part in self.feed_forward)

    @property
    def depth(self) -> float:
        """Number of pairs of a token mixer and a feed-forward part; equals ``layers`` in most models."""
        return (sum(a.layers for a in self.attention) + sum(f.layers for f in self.feed_forward)) / 2

    def splits(self, tp: int) -> bool:
        """Whether ``tp`` GPUs can share its attention heads, as SGLang's classes require."""
        return all(one.splits(tp) for one in self.attention)

    def dense_weights(self) -> Mapping[Stored, float]:
        """Weights of the layers that every step reads, by storage."""
        weights: dict[Stored, float] = {}
        for one in self.attention:
            _add(weights, one, one.layers * one.parameters(self.hidden))
        for part in self.feed_forward:
            _add(weights, part, part.layers * part.always_read(self.hidden))
        return weights

    def routed_weights(self) -> Mapping[Stored, float]:
        """Weights of the routed experts, by storage."""
        weights: dict[Stored, float] = {}
        for part in self.feed_forward:
            if routed := part.routed(self.hidden):
                _add(weights, part.experts_stored, part.layers * routed)
        return weights

    def active_share(self) -> float:
        """Share of the routed weights that one token multiplies."""
        return float(self._of_routed([part.active_share() for part in self.feed_forward]))

    def touched_share(self, tokens: Floats) -> Floats:
        """Expected share of the routed bytes that ``tokens`` touch together."""
        share: Floats = self._of_routed([part.touched_share(tokens) for part in self.feed_forward])
        return share

    def _of_routed(self, shares: list[Any]) -> Any:
        """Mean of a quantity of the feed-forward parts, weighted by the bytes of their experts."""
        sizes = [p.layers * p.routed(self.hidden) * p.experts_stored.bytes_per_weight for p in self.feed_forward]
        whole = sum(sizes)
        return sum(size / whole * share for size, share in zip(sizes, shares, strict=True)) if whole else shares[0]

    def _head_parameters(self) -> float:
        return self.hidden * self.vocab

    def parameters(self) -> float:
        """All weights."""
        tables = (1 if self.tied else 2) * self._head_parameters() + self.tower_parameters + self.lookup_parameters
        return sum(self.dense_weights().values()) + sum(self.routed_weights().values()) + tables

    def active_parameters(self) -> float:
        """Weights that one text token multiplies, including the embedding, as most model cards count them."""
        idle = self.tower_parameters + self.lookup_parameters
        return self.parameters() - idle - sum(self.routed_weights().values()) * (1.0 - self.active_share())

    def weight_bytes(self) -> float:
        """Stored bytes of the whole model."""
        tables = (1 if self.tied else 2) * self._head_parameters() * self.head_bytes_per_weight
        tables += 2.0 * self.tower_parameters + self.head_bytes_per_weight * self.lookup_parameters
        return total_bytes(self.dense_weights()) + total_bytes(self.routed_weights()) + tables

    def kv_bytes_per_token(self, tp: int = 1) -> float:
        """Bytes stored per context token beyond any window, on all ``tp`` GPUs together, copies included."""
        return tp * sum(one.kv_bytes_per_token(tp) for one in self.attention)

    def pool_bytes_per_token(self, tp: int = 1) -> float:
        """Bytes per token of SGLang's KV pool, on all ``tp`` GPUs together."""
        return tp * sum(one.pool_bytes_per_token(tp) for one in self.attention)

    def window_bytes(self, tp: int = 1) -> float:
        """Bytes of one request's sliding windows on all ``tp`` GPUs together."""
        return tp * sum(one.window_bytes(tp) for one in self.attention)

    def state_bytes(self, tp: int = 1) -> float:
        """Bytes of one request's recurrent state on all ``tp`` GPUs together."""
        return tp * sum(one.state_bytes(tp) for one in self.attention)

    def figures(self) -> dict[str, float]:
        """Sizes of the whole model on one GPU, by which a shape can be checked."""
        return {
            "parameters": self.parameters(),
            "active_parameters": self.active_parameters(),
            "weight_bytes": self.weight_bytes(),
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "state_bytes_per_request": self.state_bytes(),
            "window_bytes_per_request": self.window_bytes(),
        }

    def describe(self) -> str:
        """One line with the sizes and the notes."""
        of = self.figures()
        text = (
            f"{of['parameters'] / 1e9:,.4g}B parameters, {of['active_parameters'] / 1e9:,.4g}B active, "
            f"{of['weight_bytes'] / 1e9:,.4g} GB of weights, {of['kv_bytes_per_token']:,.0f} B of KV a token, "
            f"{of['state_bytes_per_request'] / 1e6:,.4g} MB of state a request"
        )
        if of["window_bytes_per_request"]:
            text += f", {of['window_bytes_per_request'] / 1e6:,.4g} MB of sliding windows a request"
        return "; ".join([text, *self.notes])


class DraftShape(Shape):
    """Shape of a DSpark draft model: layers, the target's embedding and LM head, and a Markov head.

    Attributes:
        layers: Draft layers.
        block: Tokens drafted per request.
        hidden_states: Number of target layers whose hidden states are captured and injected.
        markov_rank: Rank of the Markov head.
        anchor_drafts: The first of them is drafted at the anchor; otherwise a pass has one position more.
        own: The layers, where they are not like the target's.
    """

    layers: Count
    block: Count
    hidden_states: Count
    markov_rank: Count
    anchor_drafts: bool = True
    own: ModelShape | None = None

    def backbone(self, target: ModelShape) -> ModelShape:
        """The draft layers: its own, or the target's attention with the most KV and most common feed-forward part."""
        if self.own is not None:
            return self.own
        attention = max(target.attention, key=lambda one: one.kv_bytes_per_token(1) / one.layers)
        part = max(reversed(target.feed_forward), key=lambda one: one.layers)
        return target.model_copy(
            update={
                "layers": self.layers,
                "attention": (attention.of_draft(self.layers),),
                "feed_forward": (part.model_copy(update={"layers": self.layers}),),
            }
        )

    def weight_bytes(self, target: ModelShape) -> float:
        """Stored bytes of the draft model."""
        backbone = self.backbone(target)
        layers = total_bytes(backbone.dense_weights()) + total_bytes(backbone.routed_weights())
        projection = self.hidden_states * target.hidden**2 * backbone.bytes_per_weight
        markov = 2 * self.markov_rank * target.vocab * backbone.head_bytes_per_weight
        return layers + projection + markov

    def kv_bytes_per_token(self, target: ModelShape, tp: int) -> float:
        """Bytes that one context token stores for the draft on all ``tp`` GPUs together."""
        return self.backbone(target).kv_bytes_per_token(tp)


def total_bytes(weights: Mapping[Stored, float]) -> float:
    """Stored bytes of weights."""
    return sum(stored.bytes_per_weight * count for stored, count in weights.items())


def _add(weights: dict[Stored, float], of: Stored, count: float) -> None:
    stored = Stored(format=of.format, bytes_per_weight=of.bytes_per_weight)
    weights[stored] = weights.get(stored, 0.0) + count
