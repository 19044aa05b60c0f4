"""Feed-forward parts of a model's layers: dense, or a mixture of experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sglang_dspark.shapes.base import Count, Layers, Stored

Floats = NDArray[np.float64]
GATED = 3


class FeedForward(Layers, ABC):
    """Feed-forward parts of identical layers. ``routed`` weights are read if tokens touch them, the others always.

    Attributes:
        intermediate: Width.
        matrices: 3 in a gated layer, 2 in a plain one.
        side_width: Width of per-layer embeddings, projected to the hidden state and back (Gemma 4); 0 for none.
    """

    intermediate: Count
    matrices: Annotated[int, Field(ge=2, le=3)] = GATED
    side_width: Annotated[int, Field(ge=0)] = 0

    @abstractmethod
    def modules(self, hidden: int) -> Mapping[str, float]:
        """Weights of one layer that every step reads and every token multiplies, by module name."""

    def always_read(self, hidden: int) -> float:
        """Weights of one layer that every step reads."""
        return sum(self.modules(hidden).values())

    def routed(self, hidden: int) -> float:
        """Weights of all routed experts of one layer."""
        return 0.0

    @property
    def experts_stored(self) -> Stored:
        """Storage of the routed weights."""
        return self

    def active_share(self) -> float:
        """Share of the routed weights that one token multiplies."""
        return 1.0

    def touched_share(self, tokens: Floats) -> Floats:
        """Expected share of the routed weights that ``tokens`` independent tokens touch together."""
        share: Floats = 1.0 - (1.0 - self.active_share()) ** tokens
        return share


class Dense(FeedForward):
    """A feed-forward layer without experts."""

    kind: Literal["dense"]

    def modules(self, hidden: int) -> Mapping[str, float]:
        each = hidden * self.intermediate
        gate = {"gate_proj": each} if self.matrices == GATED else {}
        return {**gate, "up_proj": each, "down_proj": each, "per_layer": 3 * hidden * self.side_width}


class Experts(FeedForward):
    """A mixture of experts of width ``intermediate``.

    Attributes:
        experts: Routed experts, of which each token uses ``active``.
        shared_intermediate: Width of the part that every token uses: all shared experts, or a dense part.
        latent: Width to which the layer projects for the routed experts; None for the width of the hidden state.
        expert_stored: Storage of the routed experts; like the rest of the layer if None.
        active: Routed experts of a token.
    """

    kind: Literal["moe"]
    experts: Count
    active: Count
    shared_intermediate: Annotated[int, Field(ge=0)] = 0
    latent: Count | None = None
    expert_stored: Stored | None = None

    def modules(self, hidden: int) -> Mapping[str, float]:
        return {
            "shared_experts": self.matrices * hidden * self.shared_intermediate,
            "gate": hidden * self.experts,
            "latent": 2 * hidden * (self.latent or 0),
        }

    def routed(self, hidden: int) -> float:
        return self.experts * self.matrices * (self.latent or hidden) * self.intermediate

    @property
    def experts_stored(self) -> Stored:
        return self.expert_stored or self

    def active_share(self) -> float:
        return min(self.active / self.experts, 1.0)
