"""What a DSpark draft checkpoint's ``config.json`` says (DeepSpec's layout). No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.files import write_atomically

ARCHITECTURE = "Qwen3DSparkModel"


class DraftConfig(BaseModel):
    """The fields that the drafter reads, by their names in the file.

    ``block_size`` is gamma, the drafts of a block. ``target_layer_ids`` are the target's layers, from 0, whose outputs
    are injected. Fields of the file that are not here are the target's, copied there by DeepSpec, and are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rms_norm_eps: float = Field(gt=0.0)
    rope_theta: float = Field(gt=0.0)
    max_position_embeddings: int = Field(gt=0)
    block_size: int = Field(gt=0, le=16)
    mask_token_id: int = Field(ge=0)
    target_layer_ids: tuple[int, ...] = Field(min_length=1)
    num_target_layers: int = Field(gt=0)
    num_anchors: int = Field(gt=0)
    markov_rank: int = Field(gt=0)
    markov_head_type: str = "vanilla"
    enable_confidence_head: bool = True
    confidence_head_with_markov: bool = True

    @model_validator(mode="before")
    @classmethod
    def _rope(cls, content: Any) -> Any:
        # transformers 5 nests what transformers 4 wrote at the top.
        nested = content.get("rope_parameters") if isinstance(content, dict) else None
        if nested and "rope_theta" not in content:
            if nested.get("rope_type", "default") != "default":
                raise InputError(f"rope_parameters.rope_type: {nested['rope_type']!r}; only 'default' is implemented")
            return {**content, "rope_theta": nested.get("rope_theta")}
        return content

    @model_validator(mode="after")
    def _implemented(self) -> Self:
        if self.markov_head_type != "vanilla":
            raise InputError(f"markov_head_type: {self.markov_head_type!r} is not implemented; use 'vanilla'")
        if not (self.enable_confidence_head and self.confidence_head_with_markov):
            raise InputError("enable_confidence_head, confidence_head_with_markov: must both be true")
        if max(self.target_layer_ids) >= self.num_target_layers - 1:
            # transformers gives the last layer's output only after the final norm, SGLang before it or not at all.
            raise InputError(
                f"target_layer_ids: {max(self.target_layer_ids)} is the last of {self.num_target_layers} layers or"
                " beyond; choose earlier ones"
            )
        if self.mask_token_id >= self.vocab_size:
            raise InputError(f"mask_token_id: {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ``config.json`` of a checkpoint.

        Raises:
            InputError: It is absent, is not JSON, or is not a draft that is implemented here.
        """
        path = folder / "config.json"
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a checkpoint") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: is not JSON ({error})") from error
        if content.get("architectures") != [ARCHITECTURE]:
            raise InputError(f"{path}: architectures: {content.get('architectures')!r} is not ['{ARCHITECTURE}']")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise from_validation(error, path, content) from error

    def save(self, folder: Path) -> None:
        """Writes ``config.json`` with what DeepSpec, transformers and SGLang read beside our own fields."""
        content = self.model_dump(mode="json") | {
            "architectures": [ARCHITECTURE],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "layer_types": ["full_attention"] * self.num_hidden_layers,
            "model_type": "qwen3",
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "tie_word_embeddings": False,
            "use_cache": True,
        }
        write_atomically(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
