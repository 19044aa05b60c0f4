"""The feed-forward parts of a model's layers: dense, or a mixture of experts."""

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
    """Feed-forward parts of alike layers. ``routed`` weights are read as far as tokens touch them, the rest always.

    Attributes:
        intermediate: Width.
        matrices: 3 of a gated layer, 2 of a plain one.
        side_width: Of embeddings of each layer, projected to the hidden state and back (Gemma 4); 0 for none.
    """

    intermediate: Count
    matrices: Annotated[int, Field(ge=2, le=3)] = GATED
    side_width: Annotated[int, Field(ge=0)] = 0

    @abstractmethod
    def modules(self, hidden: int) -> Mapping[str, float]:
        """Weights of one layer that every step reads and every token multiplies, by the name of their module."""

    def always_read(self, hidden: int) -> float:
        """Weights of one layer that every step reads."""
        return sum(self.modules(hidden).values())

    def routed(self, hidden: int) -> float:
        """Weights of one layer's routed experts together."""
        return 0.0

    @property
    def experts_stored(self) -> Stored:
        """How routed weights are stored."""
        return self

    def active_share(self) -> float:
        """Share of the routed weights that one token multiplies."""
        return 1.0

    def touched_share(self, tokens: Floats) -> Floats:
        """Expected share of the routed weights that ``tokens`` touch together, each choosing independently."""
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
        experts: Routed experts, ``active`` of which each token uses.
        shared_intermediate: Width of what every token uses beside them: all shared experts, or a dense part.
        latent: Width on which the routed experts work, and to which the layer projects; None for the hidden state's.
        expert_stored: How the routed experts are stored; as the rest of the layer if None.
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
