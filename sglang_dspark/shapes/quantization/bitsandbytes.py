"""bitsandbytes: NF4 or FP4 in blocks, or INT8 rows."""

from __future__ import annotations

from typing import ClassVar

from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization.base import Uniform, excluded, packed

# Weights per block, and scales per block of quantised scales.
_BLOCK, _SCALES = 64, 256


class BitsAndBytes(Uniform):
    """NF4, FP4 or INT8 weights, multiplied in bf16."""

    names: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method == "bitsandbytes"

    def __init__(self, fields: Fields) -> None:
        if fields.flag("load_in_4bit", "_load_in_4bit"):
            scale_bytes = 1.0 + 4.0 / _SCALES if fields.flag("bnb_4bit_use_double_quant") else 4.0
            stored = packed(4, _BLOCK, scale_bytes)
        elif fields.flag("load_in_8bit", "_load_in_8bit"):
            stored = packed(8)
        else:
            raise fields.wrong(("load_in_4bit", "load_in_8bit"), "set one of load_in_4bit and load_in_8bit")
        super().__init__(stored, excluded(fields))
