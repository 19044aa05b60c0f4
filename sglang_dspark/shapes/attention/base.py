"""Base classes of token mixers: their weights, their storage, and the bytes that a step reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from sglang_dspark.shapes.base import Layers
from sglang_dspark.shapes.fields import Fields

# Types of layers, as in ``layer_types`` of ``transformers``.
FULL = "full_attention"
SLIDING = "sliding_attention"
LINEAR = "linear_attention"
MAMBA = "mamba"
CONV = "conv"


class Attention(Layers, ABC):
    """Token mixers of identical layers: attention of any kind, or a recurrence. Members add ``kind: Literal[...]``.

    Bytes are per GPU of ``tp`` and of all ``layers`` together; weights are of the whole model and of one layer.

    Attributes:
        latent: Stores latents, for which SGLang captures prefills up to a smaller size.
        slow_launch: Layers have the latency of compressed attention (see ``efficiencies``).
        recurrent: Has a state for each request instead of KV.
        names: Names of this part of a layer in checkpoints, used by lists of excluded modules.
        unquantized: Modules that stay in bf16 under every quantisation.
    """

    latent: ClassVar[bool] = False
    slow_launch: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = ("self_attn", "attn", "attention", "mixer")
    unquantized: ClassVar[frozenset[str]] = frozenset({"conv1d"})

    @classmethod
    @abstractmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        """Whether a config's layers of ``layer_type`` are of this kind."""

    @classmethod
    @abstractmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        """The fields of such a layer."""

    @abstractmethod
    def modules(self, hidden: int) -> Mapping[str, float]:
        """Weights of one layer by the name of its module."""

    def splits(self, tp: int) -> bool:
        """Whether ``tp`` GPUs can share its heads: SGLang's layers give each GPU the same number."""
        counts = [getattr(self, name, tp) for name in ("heads", "key_heads", "value_heads")]
        return all(count % tp == 0 for count in counts)

    def parameters(self, hidden: int) -> float:
        """Weights of one layer."""
        return sum(self.modules(hidden).values())

    def kv_bytes_per_token(self, tp: int) -> float:
        """Bytes stored per context token beyond any window."""
        return 0.0

    def window_bytes(self, tp: int) -> float:
        """Bytes of the windows of one request with a longer context."""
        return 0.0

    def state_bytes(self, tp: int) -> float:
        """Bytes of the recurrent state of one request."""
        return 0.0

    def pool_bytes_per_token(self, tp: int) -> float:
        """Bytes per token of SGLang's KV pool."""
        return self.kv_bytes_per_token(tp)

    def read_bytes_per_context_token(self, tp: int) -> float:
        """Bytes that a decoding step reads per context token of a request."""
        return self.kv_bytes_per_token(tp)

    def flops_per_pair(self) -> float:
        """Operations of one query token over one context token in prefill."""
        return 0.0

    def fixed_read_bytes(self, tp: int) -> float:
        """Bytes that every query token reads, independently of its context."""
        return 0.0

    def decode_read_bytes(self, tp: int) -> float:
        """Additional bytes that a decoding token moves: windows and states, which a prefill shares among tokens."""
        return 0.0

    def slot_bytes(self, model_layers: int, tp: int, *, speculative: bool) -> float:
        """Bytes that a request slot reserves independently of its context, including the drafter's window."""
        return 0.0

    def slot_position_bytes(self, model_layers: int, tp: int) -> float:
        """Additional bytes of a slot for each token that a round may write ahead."""
        return 0.0

    def of_draft(self, layers: int) -> Self:
        """Attention of a draft model of this target."""
        return self.model_copy(update={"layers": layers})


class Recurrent(Attention):
    """A recurrence with a state for each request instead of KV.

    Attributes:
        state_element_bytes: Bytes of an element of the state; the convolution before it holds bf16.
    """

    recurrent: ClassVar[bool] = True
    state_element_bytes: float = 4.0

    # With the prefix cache, SGLang keeps three states for each running request
    # (``MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO``), and one more for every token that a round verifies.
    slots: ClassVar[int] = 3

    @abstractmethod
    def state_elements(self) -> tuple[float, float]:
        """Elements of the state and of the convolution's window of one layer."""

    def state_bytes(self, tp: int) -> float:
        state, window = self.state_elements()
        return self.layers * (state * self.state_element_bytes + window * 2.0) / tp

    def decode_read_bytes(self, tp: int) -> float:
        # Read once and written once.
        return 2 * self.state_bytes(tp)

    def slot_bytes(self, model_layers: int, tp: int, *, speculative: bool) -> float:
        return self.slots * self.state_bytes(tp)

    def slot_position_bytes(self, model_layers: int, tp: int) -> float:
        return self.state_bytes(tp)
