"""Reading of a config: from its fields to the content of a shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.shapes import quantization
from sglang_dspark.shapes.config import class_defaults, layouts, towers
from sglang_dspark.shapes.config.feed_forward import EXPERTS
from sglang_dspark.shapes.config.feed_forward import feed_forwards as feed_forward_parts
from sglang_dspark.shapes.config.layer_types import mixers
from sglang_dspark.shapes.config.parts import Groups, feed_forward, mixer, usual
from sglang_dspark.shapes.fields import Fields, mapping
from sglang_dspark.shapes.model import ModelShape
from sglang_dspark.shapes.quantization import Quantization

KvDtype = Literal["auto", "bf16", "fp8", "fp4"]
# Bytes of an element, scales included.
_KV_BYTES: Final = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
# Mappings with the decoder's fields in configs of multimodal models.
_DECODERS: Final = ("text_config", "llm_config", "language_config", "thinker_config")
# Fields of the whole config that the decoder inherits unless it sets them itself.
_INHERITED: Final = ("tie_word_embeddings", "quantization_config", "compression_config", "expert_dtype", "model_type")
# SGLang's ``CONTEXT_LENGTH_KEYS``.
_CONTEXT: Final = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length", "max_position_embeddings")


class Reading:
    """One reading of a config."""

    def __init__(
        self,
        whole: Mapping[str, Any],
        source: Path | str,
        kv_dtype: KvDtype,
        complete: Mapping[str, Any] | None = None,
    ) -> None:
        """``complete`` has values for fields that the decoder's mapping omits."""
        self.source = source
        self.whole = Fields(source, whole)
        name, config = decoder(source, whole)
        behind: dict[str, Any] = {}
        if complete is not None:
            place, values = decoder(source, complete)
            # A multimodal class does not apply to a config that has only a decoder's fields.
            behind = dict(values) if place == name else {}
        inherited = {field: whole[field] for field in _INHERITED if whole.get(field) is not None}
        self.given = config
        self.fields = Fields(source, {**behind, **inherited, **_without_nulls(config, behind)}, where=name)
        self.kv_dtype = kv_dtype
        self.completed = complete is not None
        # Fields that only the configuration class of the model could give.
        self.open: list[str] = []
        self.content: dict[str, Any] = {}

    def run(self) -> None:
        """Read the content of a shape; unsupported layouts are refused before missing fields are reported."""
        fields = self.fields
        quantized = self._quantization()
        fields.kv_bytes = _KV_BYTES[self._kv_format(quantized)]
        attention = Groups()
        feed_forwards = Groups()
        hidden = fields.number("hidden_size", "n_embd")
        for layer, kinds in enumerate(mixers(fields)):
            for layer_type in kinds:
                attention.add(mixer(fields.of_layer(layer), layer_type, layer, quantized, hidden))
        for layer, parts in enumerate(feed_forward_parts(fields)):
            for part in parts:
                feed_forwards.add(feed_forward(part, layer, quantized, hidden, fields.flag("enable_moe_block")))
        tables = _per_layer_embeddings(fields)
        self.content = {
            "layers": fields.layers,
            "hidden": hidden,
            "vocab": fields.number("vocab_size", "padded_vocab_size"),
            "attention": attention.listed(),
            "feed_forward": feed_forwards.listed(),
            "tied": self._tied(),
            "streams": fields.number("hc_mult", default=1),
            "lookup_parameters": tables,
            "context_length": self._context_length(),
            "tower_parameters": towers.parameters(self.whole, hidden),
            **usual(quantized),
        }
        if drafted := fields.number("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", default=0):
            fields.notes.append(f"{drafted} multi-token-prediction layers are not counted: served without them")
        given = Fields(self.source, self.given, where=fields.where)
        given.read = fields.read
        layouts.check(given)

    def _context_length(self) -> int | None:
        """Context length as SGLang's ``get_context_length`` computes it, without its default; from the file alone."""
        given = next((self.given[name] for name in _CONTEXT if self.given.get(name) is not None), None)
        if not isinstance(given, (int, float)) or given < 1:
            return None
        scaling = self.given.get("rope_scaling")
        if not isinstance(scaling, Mapping) or "original_max_position_embeddings" in scaling:
            return int(given)
        return int(given * (1 if scaling.get("rope_type") == "llama3" else scaling.get("factor") or 1))

    def validated(self) -> ModelShape:
        """The shape."""
        content = self.content | {"notes": tuple(dict.fromkeys(self.fields.notes))}
        try:
            return ModelShape.model_validate(content)
        except ValidationError as error:
            raise from_validation(error, self.source, content) from error

    def incomplete(self) -> InputError:
        """Error for a config that lacks fields."""
        config = self.whole.config
        name = ", ".join(config.get("architectures") or [str(config.get("model_type", "unnamed"))])
        remedy = "give the model's complete config.json"
        if not class_defaults.installed() and config.get("model_type"):
            remedy += f", or {class_defaults.INSTALL}, which has the defaults of its class"
        return InputError(f"{self.source}: architecture {name}: {', '.join(self.fields.missing)}: missing; {remedy}")

    def _quantization(self) -> Quantization | None:
        for name in ("quantization_config", "compression_config"):
            value = self.fields.get(name, default=None)
            if value is not None:
                content = dict(mapping(self.source, self.fields.where + name, value))
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
        """Whether embedding and LM head are one matrix, with an assumption and a note if no field sets it."""
        fields = self.fields
        for name in ("tie_word_embeddings", "tie_embedding"):
            if fields.has(name):
                return fields.flag(name)
        if (fields.has("model_type") or self.whole.has("model_type")) and not self.completed:
            self.open.append(f"{fields.where}tie_word_embeddings")
        # transformers ties by default; nearly all classes with experts or latents do not.
        tied = not fields.has("kv_lora_rank", "o_lora_rank", *EXPERTS)
        fields.notes.append(f"tie_word_embeddings is not given: taken as {str(tied).lower()}")
        return tied


def decoder(source: Path | str, whole: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name of the mapping that holds the decoder's fields, and the fields; null mappings are ignored."""
    for name in _DECODERS:
        if whole.get(name) is not None:
            inner = mapping(source, name, whole[name])
            deeper, config = decoder(source, inner)
            return f"{name}.{deeper}", config
    return "", whole


def _without_nulls(config: Mapping[str, Any], behind: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, without nulls for which the class computes a value."""
    return {name: value for name, value in config.items() if value is not None or behind.get(name) is None}


def _per_layer_embeddings(fields: Fields) -> float:
    """Weights of the per-layer embedding tables of Gemma 3n and 4, of which a token reads one row per layer."""
    width = fields.number("hidden_size_per_layer_input", default=0)
    if not width:
        return 0.0
    vocab = fields.number("vocab_size_per_layer_input", default=0) or fields.number("vocab_size")
    return float(vocab * fields.layers * width)
