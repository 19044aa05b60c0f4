"""A model's shape from its Hugging Face ``config.json``. Fields count, not the architecture's name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.shapes import quantization
from sglang_dspark.shapes.attention import KINDS
from sglang_dspark.shapes.attention.base import FULL, SLIDING, Attention
from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.config import class_defaults, layouts, towers
from sglang_dspark.shapes.config.feed_forward import EXPERTS, feed_forwards
from sglang_dspark.shapes.config.layer_types import mixers
from sglang_dspark.shapes.feed_forward import Dense, Experts
from sglang_dspark.shapes.fields import Fields, short
from sglang_dspark.shapes.model import ModelShape
from sglang_dspark.shapes.quantization import PLAIN, Module, Quantization

KvDtype = Literal["auto", "bf16", "fp8", "fp4"]
# Bytes of an element, scales included.
_KV_BYTES: Final = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
SIDE_FILE: Final = "hf_quant_config.json"
# Where models of several modalities keep the decoder's fields.
_DECODERS: Final = ("text_config", "llm_config", "language_config", "thinker_config")
# Fields of the whole that count for the decoder where that does not say its own.
_INHERITED: Final = ("tie_word_embeddings", "quantization_config", "compression_config", "expert_dtype", "model_type")


def read(path: Path, kv_dtype: KvDtype = "auto") -> ModelShape:
    """The shape that a config describes, with the quantisation of a side file ``hf_quant_config.json`` beside it.

    Args:
        kv_dtype: Of the KV cache; ``auto`` is what the checkpoint says, and bf16 where it says nothing.

    Raises:
        InputError: Not readable, not JSON, without the fields that a shape needs, or of a layout that is not counted.
    """
    whole = _loaded(path, "give a model's config.json")
    side = path.parent / SIDE_FILE
    if not whole.get("quantization_config") and side.is_file():
        told = _loaded(side, "give the file of the checkpoint, or remove it")
        whole["quantization_config"] = _mapping(side, "quantization", told.get("quantization"))
    return shape(whole, path, kv_dtype)


def shape(whole: Mapping[str, Any], source: Path | str, kv_dtype: KvDtype = "auto") -> ModelShape:
    """The shape that a config's content describes; see :func:`read`.

    Args:
        source: What messages call it.
    """
    reading = _Reading(whole, source, kv_dtype)
    reading.run()
    if reading.fields.missing or reading.open:
        complete = class_defaults.filled(whole)
        if complete is not None:
            reading = _Reading(whole, source, kv_dtype, complete)
            reading.run()
        elif reading.open and not class_defaults.installed():
            reading.fields.missing += reading.open
    if reading.fields.missing:
        raise reading.incomplete()
    return reading.validated()


def _loaded(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no fields; {remedy}")
    return content


def _mapping(source: Path | str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: {name}: {short(value)} is not valid; give a mapping of fields")
    return value


class _Reading:
    """One pass over a config."""

    def __init__(
        self,
        whole: Mapping[str, Any],
        source: Path | str,
        kv_dtype: KvDtype,
        complete: Mapping[str, Any] | None = None,
    ) -> None:
        """``complete`` has the values of fields that the decoder's mapping leaves out."""
        self.source = source
        self.whole = Fields(source, whole)
        name, config = _decoder(source, whole)
        behind: dict[str, Any] = {}
        if complete is not None:
            found, values = _decoder(source, complete)
            # A class of several modalities has nothing to say of a config that holds a decoder's fields alone.
            behind = dict(values) if found == name else {}
        inherited = {field: whole[field] for field in _INHERITED if whole.get(field) is not None}
        self.given = config
        self.fields = Fields(source, {**behind, **inherited, **_without_nulls(config, behind)}, where=name)
        self.kv_dtype = kv_dtype
        self.completed = complete is not None
        # What a class would say, where the config has no class here.
        self.open: list[str] = []
        self.content: dict[str, Any] = {}

    def run(self) -> None:
        """Reads all that a shape holds; refuses layouts that are not counted before it says what is missing."""
        fields = self.fields
        quantized = self._quantization()
        fields.kv_bytes = _KV_BYTES[self._kv_format(quantized)]
        attention = _Groups()
        feed_forward = _Groups()
        hidden = fields.number("hidden_size", "n_embd")
        mixed = mixers(fields)
        for layer, kinds in enumerate(mixed):
            for layer_type in kinds:
                attention.add(_mixer(fields.of_layer(layer), layer_type, layer, quantized, hidden))
        for layer, parts in enumerate(feed_forwards(fields)):
            for part in parts:
                feed_forward.add(_feed_forward(part, layer, quantized, hidden, fields.flag("enable_moe_block")))
        tables = _per_layer_embeddings(fields)
        self.content = {
            "layers": fields.layers,
            "hidden": hidden,
            "vocab": fields.number("vocab_size", "padded_vocab_size"),
            "attention": attention.listed(),
            "feed_forward": feed_forward.listed(),
            "tied": self._tied(),
            "streams": fields.number("hc_mult", default=1),
            "lookup_parameters": tables,
            "tower_parameters": towers.parameters(self.whole, hidden),
            **_usual(quantized),
        }
        if drafted := fields.number("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", default=0):
            fields.notes.append(f"{drafted} multi-token-prediction layers are not counted: served without them")
        given = Fields(self.source, self.given, where=fields.where)
        given.read = fields.read
        layouts.check(given)

    def validated(self) -> ModelShape:
        """The shape."""
        content = self.content | {"notes": tuple(dict.fromkeys(self.fields.notes))}
        try:
            return ModelShape.model_validate(content)
        except ValidationError as error:
            raise from_validation(error, self.source, content) from error

    def incomplete(self) -> InputError:
        """The error of a config that lacks fields."""
        config = self.whole.config
        name = ", ".join(config.get("architectures") or [str(config.get("model_type", "unnamed"))])
        remedy = "give the model's complete config.json"
        if not class_defaults.installed() and config.get("model_type"):
            remedy += f", or {class_defaults.INSTALL}, which knows what its class leaves out"
        return InputError(f"{self.source}: architecture {name}: {', '.join(self.fields.missing)}: missing; {remedy}")

    def _quantization(self) -> Quantization | None:
        for name in ("quantization_config", "compression_config"):
            value = self.fields.get(name, default=None)
            if value is not None:
                content = dict(_mapping(self.source, self.fields.where + name, value))
                if not content:
                    return None
                content["expert_dtype"] = self.fields.get("expert_dtype", default=None)
                own = Fields(self.source, content, where=f"{self.fields.where}{name}.")
                own.missing = self.fields.missing
                return quantization.read(own)
        return None

    def _kv_format(self, quantized: Quantization | None) -> str:
        if self.kv_dtype != "auto":
            return self.kv_dtype
        return (quantized.kv_format if quantized is not None else None) or "bf16"

    def _tied(self) -> bool:
        fields = self.fields
        if fields.has("tie_word_embeddings") or not fields.has("tie_embedding"):
            default = self._usually_tied()
        else:
            default = fields.flag("tie_embedding")
        return fields.flag("tie_word_embeddings", default=default)

    def _usually_tied(self) -> bool:
        """What holds where no field says whether embedding and LM head are one matrix."""
        fields = self.fields
        if fields.has("tie_word_embeddings"):
            return True
        if (fields.has("model_type") or self.whole.has("model_type")) and not self.completed:
            self.open.append(f"{fields.where}tie_word_embeddings")
        # transformers ties without a class; nearly all of its classes with experts or latents do not.
        tied = not fields.has("kv_lora_rank", "o_lora_rank", *EXPERTS)
        fields.notes.append(f"tie_word_embeddings is not given: taken as {str(tied).lower()}")
        return tied


class _Groups:
    """Parts of layers, alike ones together."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, part: Mapping[str, Any]) -> None:
        self.counts[json.dumps(part)] += 1

    def listed(self) -> list[dict[str, Any]]:
        return [json.loads(part) | {"layers": count} for part, count in self.counts.items()]


def _decoder(source: Path | str, whole: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The decoder's fields, and the name of the mapping that holds them; a null mapping is none."""
    for name in _DECODERS:
        if whole.get(name) is not None:
            inner = _mapping(source, name, whole[name])
            deeper, config = _decoder(source, inner)
            return f"{name}.{deeper}", config
    return "", whole


def _without_nulls(config: Mapping[str, Any], behind: Mapping[str, Any]) -> dict[str, Any]:
    """A config's fields; a null of it stands unless the class has a value that it computes from others."""
    return {name: value for name, value in config.items() if value is not None or behind.get(name) is None}


def _usual(quantized: Quantization | None) -> dict[str, Any]:
    """How linear layers are stored that no field tells apart, such as a draft's."""
    stored = quantized.stored(Module(0, "mlp", "down_proj")) if quantized is not None else PLAIN
    return stored.model_dump()


def _mixer(fields: Fields, layer_type: str, layer: int, quantized: Quantization | None, hidden: int) -> dict[str, Any]:
    kind = next((one for one in KINDS if one.claims(fields, layer_type)), None)
    if kind is None:
        raise InputError(
            f"{fields.source}: {fields.where}layer {layer}: no field says the size of its {layer_type}; {fields.remedy}"
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


def _feed_forward(
    part: dict[str, Any], layer: int, quantized: Quantization | None, hidden: int, beside: bool
) -> dict[str, Any]:
    if quantized is None:
        return part
    # Gemma 4 has its experts beside a dense part, and calls that the layer's.
    experts, dense = ("experts.0", "mlp") if beside else ("mlp.experts.0", "mlp.shared_experts")
    member = Experts if part["kind"] == "moe" else Dense
    try:
        one = member.model_validate(part | {"layers": 1})
    except ValidationError:
        # Reported with all fields by the shape's own validation.
        return part
    inside = {name: count for name, count in one.modules(hidden).items() if count}
    paths = {"shared_experts": (dense, "down_proj"), "latent": ("mlp", "latent")}
    modules = {Module(layer, *paths.get(name, ("mlp", name))): count for name, count in inside.items()}
    stored = _together(quantized, modules, frozenset({"gate"})).model_dump()
    if member is Experts:
        routed = quantized.stored(Module(layer, experts, "down_proj"))
        stored["expert_stored"] = routed.model_dump()
    return part | stored


def _together(quantized: Quantization | None, modules: Mapping[Module, float], plain: frozenset[str]) -> Stored:
    """How modules of one layer are stored on average; their arithmetic is that of the most weights."""
    if quantized is None or not modules:
        return PLAIN
    stored = {m: PLAIN if m.name in plain else quantized.stored(m) for m in modules}
    whole = sum(modules.values())
    mean = sum(count * stored[m].bytes_per_weight for m, count in modules.items()) / whole
    formats: Counter[str] = Counter()
    for m, count in modules.items():
        formats[stored[m].format] += int(count)
    return Stored.model_validate({"format": formats.most_common(1)[0][0], "bytes_per_weight": mean})


def _per_layer_embeddings(fields: Fields) -> float:
    """Tables of Gemma 3n and 4: a token reads a row of each, for every layer."""
    width = fields.number("hidden_size_per_layer_input", default=0)
    if not width:
        return 0.0
    vocab = fields.number("vocab_size_per_layer_input", default=0) or fields.number("vocab_size")
    return float(vocab * fields.layers * width)
