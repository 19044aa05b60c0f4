"""MXFP4 experts (gpt-oss); everything else stays in bf16."""

from __future__ import annotations

from typing import ClassVar

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization.base import PLAIN, Module, Names, Quantization, excluded, packed


class Mxfp4(Quantization):
    """MXFP4 experts: groups of 32 with a scale of one byte."""

    names: ClassVar[tuple[str, ...]] = ("mxfp4",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method == "mxfp4"

    def __init__(self, fields: Fields) -> None:
        self.excluded = Names(excluded(fields))

    def stored(self, module: Module) -> Stored:
        routed = module.routed and module not in self.excluded
        return packed(4, 32, 1.0, form="fp4_fp8") if routed else PLAIN
