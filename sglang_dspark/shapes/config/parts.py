"""Parts of single layers with their storage, collected into groups of identical ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.shapes.attention import KINDS
from sglang_dspark.shapes.attention.base import FULL, SLIDING, Attention
from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.feed_forward import Dense, Experts
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization import PLAIN, Module, Quantization

# Names of a layer's feed-forward part in checkpoints besides ``mlp``.
_MLP: Final = ("block_sparse_moe", "feed_forward", "moe", "mixer")


class Groups:
    """Collection of parts of layers that counts identical ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, part: Mapping[str, Any]) -> None:
        self.counts[json.dumps(part)] += 1

    def listed(self) -> list[dict[str, Any]]:
        return [json.loads(part) | {"layers": count} for part, count in self.counts.items()]


def usual(quantized: Quantization | None) -> dict[str, Any]:
    """Storage of linear layers that no field lists separately, such as a draft's."""
    stored = quantized.stored(Module(0, "mlp", "down_proj")) if quantized is not None else PLAIN
    return stored.model_dump()


def mixer(fields: Fields, layer_type: str, layer: int, quantized: Quantization | None, hidden: int) -> dict[str, Any]:
    kind = next((one for one in KINDS if one.claims(fields, layer_type)), None)
    if kind is None:
        raise InputError(
            f"{fields.source}: {fields.where}layer {layer}: no field has the size of its {layer_type}; {fields.remedy}"
        )
    content = kind.from_config(fields, layer_type)
    shared = fields.number("num_kv_shared_layers", default=0)
    if shared and layer >= fields.layers - shared and layer_type in (FULL, SLIDING):
        content["shares_kv"] = True
    if fields.missing:
        return content
    try:
        one = kind.model_validate(content | {"layers": 1})
    except ValidationError as error:
        raise from_validation(error, fields.source, content) from error
    modules = {name: count for name, count in one.modules(hidden).items() if count}
    return content | _stored(quantized, layer, kind, modules)


def _stored(
    quantized: Quantization | None, layer: int, kind: type[Attention], modules: Mapping[str, float]
) -> dict[str, Any]:
    first, *others = kind.names
    parts = {Module(layer, first, name, tuple(others)): count for name, count in modules.items()}
    return _together(quantized, parts, kind.unquantized).model_dump()


def feed_forward(
    part: dict[str, Any], layer: int, quantized: Quantization | None, hidden: int, beside: bool
) -> dict[str, Any]:
    if quantized is None:
        return part
    # Gemma 4 has experts and a dense part, and names the latter as the layer's.
    experts, dense = ("experts.0", "mlp") if beside else ("mlp.experts.0", "mlp.shared_experts")
    member = Experts if part["kind"] == "moe" else Dense
    try:
        one = member.model_validate(part | {"layers": 1})
    except ValidationError:
        # Reported with all fields by the shape's own validation.
        return part
    inside = {name: count for name, count in one.modules(hidden).items() if count}
    paths = {"shared_experts": (dense, "down_proj"), "latent": ("mlp", "latent")}
    modules = {Module(layer, *paths.get(name, ("mlp", name)), _MLP): count for name, count in inside.items()}
    stored = _together(quantized, modules, frozenset({"gate"})).model_dump()
    if member is Experts:
        routed = quantized.stored(Module(layer, experts, "down_proj", _MLP))
        stored["expert_stored"] = routed.model_dump()
    return part | stored


def _together(quantized: Quantization | None, modules: Mapping[Module, float], plain: frozenset[str]) -> Stored:
    """Average storage of modules of one layer; their arithmetic is that of most weights."""
    if quantized is None or not modules:
        return PLAIN
    stored = {m: PLAIN if m.name in plain else quantized.stored(m) for m in modules}
    whole = sum(modules.values())
    mean = sum(count * stored[m].bytes_per_weight for m, count in modules.items()) / whole
    formats: Counter[str] = Counter()
    for m, count in modules.items():
        formats[stored[m].format] += int(count)
    return Stored.model_validate({"format": formats.most_common(1)[0][0], "bytes_per_weight": mean})
