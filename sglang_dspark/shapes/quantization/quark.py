"""AMD Quark: a global scheme, and other schemes for some modules."""

from __future__ import annotations

from typing import Any, ClassVar

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.gpus import Arithmetic
from sglang_dspark.shapes.quantization.base import PLAIN, Module, Names, Quantization, excluded, packed, scheme_bits


class Quark(Quantization):
    """Schemes of ``global_quant_config``, and of ``layer_quant_config`` by module name."""

    names: ClassVar[tuple[str, ...]] = ("quark",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method == "quark"

    def __init__(self, fields: Fields) -> None:
        self.excluded = Names(excluded(fields))
        self.everywhere = _scheme(fields.inner("global_quant_config"))
        layers = fields.inner("layer_quant_config") if fields.get("layer_quant_config", default=None) else None
        self.listed = (
            [(Names([name]), _scheme(layers.inner(name))) for name in layers.config] if layers is not None else []
        )

    def stored(self, module: Module) -> Stored:
        if module in self.excluded:
            return PLAIN
        return next((stored for names, stored in self.listed if module in names), self.everywhere)


def _scheme(fields: Fields) -> Stored:
    weight = fields.inner("weight")
    bits = scheme_bits(weight.get("dtype"))
    inputs: Any = fields.get("input_tensors", default=None)
    wider = max(bits, scheme_bits(inputs.get("dtype")) if isinstance(inputs, dict) else 16)
    formats: dict[int, Arithmetic] = {4: "fp4", 8: "fp8"}
    return packed(bits, weight.number("group_size", default=0) or None, 1.0, form=formats.get(wider, "bf16"))
