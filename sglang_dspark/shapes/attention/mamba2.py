"""Mamba-2 (Nemotron-H, Granite 4, Bamba, Falcon-H1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sglang_dspark.shapes.attention.base import LINEAR, MAMBA, Recurrent
from sglang_dspark.shapes.base import Count
from sglang_dspark.shapes.fields import Fields


class Mamba2(Recurrent):
    """A selective state space: each head keeps a matrix of ``head_dim`` by ``state``.

    Attributes:
        heads: Number of heads.
        head_dim: Width of a head.
        groups: Groups of heads that share their input and output matrices.
        kernel: Width of the convolution in tokens.
        state: Width of the state of a channel.
    """

    kind: Literal["mamba2"]
    names: ClassVar[tuple[str, ...]] = ("mixer", "mamba")
    heads: Count
    head_dim: Count
    groups: Count
    state: Count
    kernel: Count

    @classmethod
    def claims(cls, fields: Fields, layer_type: str) -> bool:
        return layer_type in (MAMBA, LINEAR) and fields.has("mamba_num_heads", "mamba_n_heads")

    @classmethod
    def from_config(cls, fields: Fields, layer_type: str) -> dict[str, Any]:
        heads = fields.number("mamba_num_heads", "mamba_n_heads")
        head_dim = fields.number("mamba_head_dim", "mamba_d_head", default=0)
        if not head_dim:
            # Granite and Bamba write "auto".
            head_dim = fields.number("mamba_expand", "expand") * fields.number("hidden_size") // heads
        return {
            "kind": "mamba2",
            "heads": heads,
            "head_dim": head_dim,
            "groups": fields.number("n_groups", "mamba_n_groups"),
            "state": fields.number("ssm_state_size", "mamba_d_state"),
            "kernel": fields.number("conv_kernel", "mamba_d_conv"),
            "state_element_bytes": fields.state_bytes,
        }

    @property
    def _convolved(self) -> int:
        return self.heads * self.head_dim + 2 * self.groups * self.state

    def modules(self, hidden: int) -> Mapping[str, float]:
        wide = self.heads * self.head_dim
        return {
            "in_proj": hidden * (wide + self._convolved + self.heads),
            "conv1d": self._convolved * self.kernel,
            "out_proj": wide * hidden,
        }

    def state_elements(self) -> tuple[float, float]:
        return self.heads * self.head_dim * self.state, self._convolved * (self.kernel - 1)
