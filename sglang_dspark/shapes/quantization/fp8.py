"""FP8 in blocks or whole tensors (``fp8``, ``fbgemm_fp8``), with experts in FP4 by ``expert_dtype``."""

from __future__ import annotations

from typing import ClassVar

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization.base import PLAIN, Module, Names, Quantization, excluded, packed


class Fp8(Quantization):
    """FP8 weights; experts may be FP4 in groups of 32, which are multiplied with FP8 activations."""

    names: ClassVar[tuple[str, ...]] = ("fp8",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method in ("fp8", "fbgemm_fp8", "mxfp8")

    def __init__(self, fields: Fields) -> None:
        self.excluded = Names(excluded(fields))
        block = fields.get("weight_block_size", default=None)
        if block is not None and not (isinstance(block, list) and all(isinstance(n, int) and n > 0 for n in block)):
            raise fields.wrong(("weight_block_size",), "give a list of whole numbers")
        size = 1
        for n in block or []:
            size *= n
        group, scale = (size, 4.0) if block else (None, 0.0)
        if fields.get("quant_method", default="") == "mxfp8":
            group, scale = 32, 1.0
        self.linear = packed(8, group, scale, form="fp8")
        self.experts = self.linear
        expert_dtype = fields.get("expert_dtype", default="fp8")
        if expert_dtype == "fp4":
            self.experts = packed(4, 32, 1.0, form="fp4_fp8")
        elif expert_dtype != "fp8":
            raise fields.wrong(("expert_dtype",), "fp8 and fp4 are supported; " + fields.remedy)
        self.kv_format = "fp8" if fields.get("kv_cache_quant_algo", default="") == "FP8" else None

    def stored(self, module: Module) -> Stored:
        if module in self.excluded:
            return PLAIN
        return self.experts if module.routed else self.linear
