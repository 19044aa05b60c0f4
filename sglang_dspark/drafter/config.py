"""Draft configurations as ``config.json`` of a checkpoint, in the layouts of DeepSpec and SGLang. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.files import write_atomically

Style = Literal["qwen3", "gemma4", "llama"]
"""The model whose layers a drafter copies."""

MAX_GAMMA = 16


class DraftConfig(BaseModel):
    """Base of a family's configuration; fields have the file's names where the file has them.

    ``target_layer_ids`` are the target layers, from 0, whose outputs are injected. ``head_dim`` and
    ``num_key_value_heads`` are those of Gemma 4's full-attention layers. Other fields of the file are ignored: DeepSpec
    copies the target's configuration there.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    STYLES: ClassVar[Mapping[str, Style]]
    """The values of ``architectures`` that the family reads, and the style of layers of each."""

    architecture: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rms_norm_eps: float = Field(gt=0.0)
    rope_theta: float = Field(gt=0.0)
    rotary_share: float = Field(default=1.0, gt=0.0, le=1.0)
    max_position_embeddings: int = Field(gt=0)
    target_layer_ids: tuple[int, ...] = Field(min_length=1)
    num_target_layers: int = Field(gt=0)
    final_logit_softcapping: float | None = Field(default=None, gt=0.0)
    keys_are_values: bool = False

    @classmethod
    def from_content(cls, content: dict[str, Any], architecture: str, source: str | Path) -> Self:
        """Parse the content of a ``config.json``.

        Raises:
            InputError: A field is missing, out of range, or asks for what is not implemented.
        """
        try:
            flat = _flatten(content, architecture, cls.STYLES[architecture])
            return cls.model_validate(cls.nested_fields(content) | flat)
        except ValidationError as error:
            raise from_validation(error, source, content) from error
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @property
    def style(self) -> Style:
        """The style of the layers."""
        return self.STYLES[self.architecture]

    @property
    def gamma(self) -> int:
        """Drafts of a block."""
        raise NotImplementedError

    @classmethod
    def nested_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return fields that the family's files nest; a field at the top level of the file takes precedence."""
        return {}

    def family_content(self) -> dict[str, Any]:
        """Return what the family's files hold besides the common fields."""
        return {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.target_layer_ids) != sorted(set(self.target_layer_ids)) or self.target_layer_ids[0] < 0:
            raise InputError(f"target_layer_ids: {list(self.target_layer_ids)} must rise from 0 or more")
        if max(self.target_layer_ids) >= self.num_target_layers - 1:
            # transformers gives the last layer's output only after the final norm, SGLang before it or not at all.
            raise InputError(
                f"target_layer_ids: {max(self.target_layer_ids)} is the last of {self.num_target_layers} layers or"
                " beyond; choose earlier ones"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_key_value_heads: {self.num_key_value_heads} does not divide"
                f" num_attention_heads, {self.num_attention_heads}"
            )
        return self

    def save(self, folder: Path) -> None:
        """Write ``config.json`` with the fields that DeepSpec, transformers and SGLang read."""
        content = self.model_dump(mode="json", exclude={"architecture", "rotary_share", "keys_are_values"})
        content |= {
            "architectures": [self.architecture],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "layer_types": ["full_attention"] * self.num_hidden_layers,
            "tie_word_embeddings": False,
            "use_cache": True,
        }
        if self.final_logit_softcapping is None:
            del content["final_logit_softcapping"]
        content |= _gemma_content(self) if self.style == "gemma4" else _plain_content(self)
        content |= self.family_content()
        write_atomically(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")


def _flatten(content: dict[str, Any], architecture: str, style: Style) -> dict[str, Any]:
    """Return the file's content under this module's field names; other layouts nest or rename some fields."""
    flat = content | {"architecture": architecture}
    rope = content.get("rope_parameters") or {}
    # Gemma 4 has one rotary embedding per kind of layer; transformers 5 nests what transformers 4 wrote at the top.
    rope = rope.get("full_attention", rope)
    if content.get("rope_theta") is None and "rope_theta" in rope:
        flat["rope_theta"] = rope["rope_theta"]
    rope_type = rope.get("rope_type", "default")
    if rope_type not in ("default", "proportional"):
        raise InputError(f"rope_parameters.rope_type: {rope_type!r}; only 'default' and 'proportional' are implemented")
    flat["rotary_share"] = rope.get("partial_rotary_factor", 1.0)
    if style == "gemma4":
        for field in ("enable_moe_block", "use_double_wide_mlp"):
            if content.get(field) is True:
                raise InputError(f"{field}: true is not implemented")
        if content.get("hidden_size_per_layer_input"):
            raise InputError(f"hidden_size_per_layer_input: {content['hidden_size_per_layer_input']!r}; must be 0")
        flat["head_dim"] = content.get("global_head_dim", content.get("head_dim"))
        flat["keys_are_values"] = bool(content.get("attention_k_eq_v"))
        if flat["keys_are_values"]:
            flat["num_key_value_heads"] = content.get("num_global_key_value_heads")
    return flat


def _plain_content(config: DraftConfig) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "model_type": "llama" if config.style == "llama" else "qwen3",
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
    }


def _gemma_content(config: DraftConfig) -> dict[str, Any]:
    rope = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rotary_share < 1.0:
        rope |= {"rope_type": "proportional", "partial_rotary_factor": config.rotary_share}
    return {
        "attention_k_eq_v": config.keys_are_values,
        "enable_moe_block": False,
        "global_head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 0,
        "model_type": "gemma4_text",
        "num_global_key_value_heads": config.num_key_value_heads,
        "num_kv_shared_layers": 0,
        "rope_parameters": {"full_attention": rope},
        "use_double_wide_mlp": False,
    }
