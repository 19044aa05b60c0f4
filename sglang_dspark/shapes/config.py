"""A model's shape from its Hugging Face ``config.json``: decoders with grouped-query or multi-head latent attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.shapes.model import ModelShape

FP8_METHODS = ("fp8", "compressed-tensors", "modelopt")
FP8 = {"format": "fp8", "bytes_per_weight": 1.0}


def read(path: Path) -> ModelShape:
    """The shape that a config describes. Fields count, not the architecture's name.

    Layers are taken as alike: leading dense layers of a mixture of experts and sliding windows are not told apart.

    Raises:
        InputError: Not readable, not JSON, or without the fields that a shape needs; they are named.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a model's config.json") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); give a model's config.json") from error
    if not isinstance(whole, dict):
        raise InputError(f"{path}: holds no fields; give a model's config.json")
    # Models of several modalities keep the decoder's fields apart.
    config = whole.get("text_config", whole)
    fields = _Fields(config)
    content = {
        "layers": fields.get("num_hidden_layers", "n_layer"),
        "hidden": fields.get("hidden_size", "n_embd"),
        "vocab": fields.get("vocab_size"),
        "tied": bool(config.get("tie_word_embeddings", False)),
        "attention": _attention(fields),
        "feed_forward": _feed_forward(fields),
    }
    if fields.missing:
        name = ", ".join(whole.get("architectures") or [str(whole.get("model_type", "unnamed"))])
        raise InputError(
            f"{path}: architecture {name}: the config lacks {', '.join(fields.missing)}; "
            "add what it has by another name"
        )
    quantized = (config.get("quantization_config") or whole.get("quantization_config") or {}).get("quant_method")
    if quantized is not None and quantized not in FP8_METHODS:
        raise InputError(
            f"{path}: quantization_config: quant_method: {quantized!r} is not known; use {', '.join(FP8_METHODS)}"
        )
    stored = {"format": "bf16", "bytes_per_weight": 2.0} if quantized is None else FP8
    content |= stored
    if content["feed_forward"]["kind"] == "moe":
        content["feed_forward"] |= stored
    try:
        return ModelShape.model_validate(content)
    except ValidationError as error:
        raise from_validation(error, path, content) from error


class _Fields:
    """The fields of a config, and those that were looked for in vain."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.missing: list[str] = []

    def get(self, *names: str) -> Any:
        for name in names:
            if self.config.get(name) is not None:
                return self.config[name]
        if (wanted := " or ".join(names)) not in self.missing:
            self.missing.append(wanted)
        return 1


def _attention(fields: _Fields) -> dict[str, Any]:
    heads = fields.get("num_attention_heads", "n_head")
    if fields.config.get("kv_lora_rank") is not None:
        return {
            "kind": "mla",
            "heads": heads,
            "q_lora_rank": fields.get("q_lora_rank"),
            "kv_lora_rank": fields.get("kv_lora_rank"),
            "nope_dim": fields.get("qk_nope_head_dim"),
            "rope_dim": fields.get("qk_rope_head_dim"),
            "value_dim": fields.get("v_head_dim"),
        }
    head_dim = fields.config.get("head_dim") or fields.get("hidden_size", "n_embd") // max(1, heads)
    return {
        "kind": "gqa",
        "heads": heads,
        "kv_heads": fields.config.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
    }


def _feed_forward(fields: _Fields) -> dict[str, Any]:
    experts = next(
        (
            fields.config[name]
            for name in ("num_experts", "n_routed_experts", "num_local_experts")
            if fields.config.get(name)
        ),
        None,
    )
    if experts is None:
        return {"kind": "dense", "intermediate": fields.get("intermediate_size")}
    return {
        "kind": "moe",
        "intermediate": fields.get("moe_intermediate_size", "intermediate_size"),
        "experts": experts,
        "active": fields.get("num_experts_per_tok"),
        "shared": fields.config.get("n_shared_experts") or 0,
    }
