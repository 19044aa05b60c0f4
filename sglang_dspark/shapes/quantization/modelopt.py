"""NVIDIA ModelOpt, from ``quantization_config`` or the side file ``hf_quant_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization.base import PLAIN, Module, Names, Quantization, excluded, kv_format, packed
from sglang_dspark.shapes.quantization.compressed_tensors import weights

_MIXED: Final = "MIXED_PRECISION"


def _algorithms(group: int) -> dict[str, Stored]:
    return {
        "FP8": packed(8, form="fp8"),
        "FP8_PER_CHANNEL_PER_TOKEN": packed(8, form="fp8"),
        "FP8_PB_REAL": packed(8, 128 * 128, 4.0, form="fp8"),
        "FP8_PB_WO": packed(8, 128 * 128, 4.0),
        "W8A8_SQ_PER_CHANNEL": packed(8, form="fp8"),
        "INT8": packed(8, form="fp8"),
        "MXFP8": packed(8, 32, 1.0, form="fp8"),
        "NVFP4": packed(4, group or 16, 1.0, form="fp4"),
        "NVFP4_AWQ": packed(4, group or 16, 1.0, form="fp4"),
        "NVFP4_SVDQUANT": packed(4, group or 16, 1.0, form="fp4"),
        "W4A16_NVFP4": packed(4, group or 16, 1.0),
        "MXFP4": packed(4, 32, 1.0, form="fp4"),
        "W4A8_MXFP4_FP8": packed(4, 32, 1.0, form="fp4_fp8"),
        "W4A8_NVFP4_FP8": packed(4, group or 16, 1.0, form="fp4_fp8"),
        "W4A16_AWQ": packed(4, group or 128, 2.0),
        "W4A8_AWQ": packed(4, group or 128, 2.0, form="fp8"),
    }


class ModelOpt(Quantization):
    """One algorithm for all linear layers except excluded ones, or one for each listed module."""

    names: ClassVar[tuple[str, ...]] = ("modelopt",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method.startswith("modelopt")

    def __init__(self, fields: Fields) -> None:
        self.excluded = Names(excluded(fields))
        cache = fields.get("kv_cache_quant_algo", "kv_cache_scheme", default=None)
        self.kv_format = kv_format(cache)
        algorithm = fields.get("quant_algo", default=None)
        if algorithm is None and fields.has("config_groups"):
            # A newer layout, without the name of the algorithm and with one group.
            groups = fields.inner("config_groups")
            self.everywhere: Stored = weights(groups.inner(next(iter(groups.config))))
        else:
            self.everywhere = PLAIN if algorithm in (_MIXED, None) else self._of(fields, algorithm, fields)
        layers = fields.get("quantized_layers", default=None)
        if algorithm == _MIXED and not isinstance(layers, Mapping):
            raise fields.wrong(("quantized_layers", "quant_algo"), "list the algorithm of each module")
        # Experts are listed one by one; the first represents all.
        by_format: dict[Stored, list[str]] = {}
        for name, one in (layers or {}).items():
            inner = Fields(fields.source, one, where=f"{fields.where}quantized_layers.{name}.")
            by_format.setdefault(self._of(inner, inner.get("quant_algo", default=""), fields), []).append(name)
        self.listed = [(Names(names), stored) for stored, names in by_format.items()]
        fields.read.add("quantized_layers")

    @staticmethod
    def _of(fields: Fields, algorithm: Any, whole: Fields) -> Stored:
        known = _algorithms(int(fields.number("group_size", default=0)))
        stored = known.get(str(algorithm).upper())
        if stored is None:
            raise fields.wrong(("quant_algo",), f"{', '.join(known)} are supported; {whole.remedy}")
        return stored

    def stored(self, module: Module) -> Stored:
        for names, stored in self.listed:
            if module in names:
                return stored
        return PLAIN if module in self.excluded else self.everywhere
