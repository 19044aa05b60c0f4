"""``compressed-tensors`` (LLM Compressor): groups of modules, each with a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.gpus import Arithmetic
from sglang_dspark.shapes.quantization.base import (
    PLAIN,
    Module,
    Names,
    Quantization,
    excluded,
    kv_format,
    packed,
    scheme_bits,
)


class CompressedTensors(Quantization):
    """Groups of modules with a scheme each; a target is a class of modules, a name or a regular expression."""

    names: ClassVar[tuple[str, ...]] = ("compressed-tensors",)

    @classmethod
    def claims(cls, method: str) -> bool:
        return method in ("compressed-tensors", "compressed_tensors")

    def __init__(self, fields: Fields) -> None:
        self.excluded = Names(excluded(fields))
        self.kv_format = kv_format(fields.get("kv_cache_scheme", default=None))
        groups = fields.inner("config_groups")
        if not groups.config:
            raise fields.wrong(("config_groups",), "give a group with its weights")
        self.groups: list[tuple[Names | None, Stored]] = []
        for name in groups.config:
            group = groups.inner(name)
            targets = group.get("targets", default=["Linear"])
            everywhere = any(target in ("Linear", "MoEExperts", "FusedMoE") for target in targets)
            stored = weights(group, fields.get("format", default=""))
            self.groups.append((None if everywhere else Names(targets), stored))

    def stored(self, module: Module) -> Stored:
        if module in self.excluded:
            return PLAIN
        # A named target takes precedence over a class of modules.
        groups = sorted(self.groups, key=lambda group: group[0] is None)
        return next((stored for names, stored in groups if names is None or module in names), PLAIN)


def weights(group: Fields, layout: str = "") -> Stored:
    """Storage of a group's weights, with the arithmetic that its activations allow."""
    of = group.inner("weights")
    bits = of.number("num_bits")
    kind = of.get("type", default="int")
    size = of.number("group_size", default=0)
    layout = group.get("format", default=None) or layout
    return packed(
        bits,
        size or None,
        # 4-bit floating point has scales of one byte: FP8 (NVFP4, groups of 16) or powers of two (MXFP4, of 32).
        1.0 if kind == "float" and bits == 4 else 2.0,
        zeros=of.get("symmetric", default=True) is False,
        form=_format(bits, kind, group.get("input_activations", default=None), layout),
    )


def _format(bits: int, kind: str, activations: Any, layout: str) -> Arithmetic:
    """Arithmetic of the wider of weights and activations; bf16 if only weights are quantised.

    INT8 has the rate of FP8.
    """
    if kind == "float" and bits == 8 and not isinstance(activations, Mapping) and "pack" not in layout:
        return "fp8"
    if not isinstance(activations, Mapping):
        return "bf16"
    wider = max(bits, scheme_bits(activations))
    if wider == 4:
        return "fp4" if kind == "float" else "bf16"
    return "fp8" if wider == 8 else "bf16"
