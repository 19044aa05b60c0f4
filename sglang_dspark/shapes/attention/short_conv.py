"""Gated short convolutions (LFM2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sglang_dspark.shapes.attention.base import CONV, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class ShortConv(Recurrent):
    """A gated convolution over ``kernel`` tokens, as wide as the hidden state.

    Attributes:
        width: Width of the hidden state.
        kernel: Width of the convolution in tokens.
    """

    kind: Literal["short_conv"]
    width: Count
    kernel: Count

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type == CONV and fields.has("conv_L_cache")

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        return {"kind": "short_conv", "width": fields.number("hidden_size"), "kernel": fields.number("conv_L_cache")}

    def modules(self, hidden: int) -> Mapping[str, float]:
        return {"in_proj": 3 * hidden**2, "conv1d": hidden * self.kernel, "out_proj": hidden**2}

    def state_elements(self) -> tuple[float, float]:
        return 0.0, self.width * (self.kernel - 1)
