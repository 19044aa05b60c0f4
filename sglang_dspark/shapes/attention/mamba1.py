"""Mamba, the first version (Jamba, Falcon Mamba)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sglang_dspark.shapes.attention.base import MAMBA, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class Mamba1(Recurrent):
    """A selective state space with a state of ``state`` values for each of ``width`` channels.

    Attributes:
        width: Number of channels.
        state: Width of the state of a channel.
        rank: Rank of the projection to step sizes.
        kernel: Width of the convolution in tokens.
    """

    kind: Literal["mamba1"]
    names: ClassVar[tuple[str, ...]] = ("mamba", "mixer")
    width: Count
    state: Count
    rank: Count
    kernel: Count

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == MAMBA and fields.has("mamba_d_state") and not fields.has("mamba_n_heads")

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        hidden = fields.number("hidden_size")
        return {
            "kind": "mamba1",
            "width": fields.number("mamba_expand") * hidden,
            "state": fields.number("mamba_d_state"),
            "rank": fields.number("mamba_dt_rank", default=-(-hidden // 16)),
            "kernel": fields.number("mamba_d_conv"),
            "state_element_bytes": fields.state_bytes,
        }

    def modules(self, hidden: int) -> Mapping[str, float]:
        return {
            "in_proj": 2 * hidden * self.width,
            "conv1d": self.width * (self.kernel + self.state),
            "x_proj": self.width * (self.rank + 2 * self.state),
            "dt_proj": self.rank * self.width,
            "out_proj": self.width * hidden,
        }

    def state_elements(self) -> tuple[float, float]:
        return self.width * self.state, self.width * (self.kernel - 1)
