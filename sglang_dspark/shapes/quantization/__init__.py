"""How checkpoints are quantised, one family of methods a file. A new one is a file, and a line in :data:`METHODS`."""

from __future__ import annotations

from typing import Any, Final

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields, short
from sglang_dspark.shapes.quantization.base import PLAIN, Module, Quantization
from sglang_dspark.shapes.quantization.bitsandbytes import BitsAndBytes
from sglang_dspark.shapes.quantization.compressed_tensors import CompressedTensors
from sglang_dspark.shapes.quantization.fp8 import Fp8
from sglang_dspark.shapes.quantization.integer_groups import IntegerGroups
from sglang_dspark.shapes.quantization.modelopt import ModelOpt
from sglang_dspark.shapes.quantization.mxfp4 import Mxfp4
from sglang_dspark.shapes.quantization.quark import Quark

METHODS: Final[tuple[type[Quantization], ...]] = (
    Fp8, CompressedTensors, ModelOpt, Mxfp4, IntegerGroups, BitsAndBytes, Quark,
)  # fmt: skip
_NAMES: Final = "fp8, compressed-tensors, modelopt, mxfp4, awq, gptq, auto-round, bitsandbytes, quark"

__all__ = ["METHODS", "PLAIN", "Module", "Quantization", "Stored", "read"]


def read(fields: Fields) -> Quantization:
    """The quantisation that a ``quantization_config`` describes.

    Raises:
        InputError: Its method is not counted.
    """
    method: Any = fields.get("quant_method", default=None)
    if method is None:
        # ModelOpt's side files and older configs do not name their method.
        modelopt = "quant_algo" in fields.config or fields.has("kv_cache_quant_algo")
        method = "modelopt" if modelopt else "compressed-tensors" if fields.has("config_groups") else None
    for one in METHODS:
        if isinstance(method, str) and one.claims(method.lower()):
            return one(fields)
    raise InputError(
        f"{fields.source}: {fields.where}quant_method: {short(method)} is not counted; {_NAMES} are, or {fields.remedy}"
    )
