"""Quantisation of checkpoints, one family of methods per file.

A new family is a file here with a subclass of :class:`Quantization`, and a member of :data:`METHODS`.
"""

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

__all__ = ["METHODS", "PLAIN", "Module", "Quantization", "Stored", "read"]


def read(fields: Fields) -> Quantization:
    """Read the quantisation that a ``quantization_config`` describes.

    Raises:
        InputError: The method is not supported.
    """
    method: Any = fields.get("quant_method", default=None)
    if method is None:
        # ModelOpt's side files and older configs do not name their method.
        modelopt = "quant_algo" in fields.config or fields.has("kv_cache_quant_algo")
        method = "modelopt" if modelopt else "compressed-tensors" if fields.has("config_groups") else None
    for one in METHODS:
        if isinstance(method, str) and one.claims(method.lower()):
            return one(fields)
    supported = ", ".join(name for one in METHODS for name in one.names)
    raise InputError(
        f"{fields.source}: {fields.where}quant_method: {short(method)} is not supported; {supported} are, "
        f"or {fields.remedy}"
    )
