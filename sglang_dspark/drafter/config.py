"""What a draft checkpoint's ``config.json`` says, in the layouts of DeepSpec and SGLang. No torch.

``architectures`` names the family and the style of its layers:

- DeepSpec's ``Qwen3DSparkModel`` and ``Gemma4DSparkModel`` are DSpark, or its DFlash where ``markov_rank`` is 0;
  ``Qwen3Eagle3Model`` and ``Gemma4Eagle3Model`` are Eagle3.
- ``DFlashDraftModel`` and ``LlamaForCausalLMEagle3`` are what SGLang serves as ``DFLASH`` and ``EAGLE3``. The first
  drafts from the mask tokens only, the second does not norm queries and keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.files import write_atomically

Style = Literal["qwen3", "gemma4", "llama"]
SerialHead = Literal["vanilla", "gated", "rnn"]
MAX_GAMMA = 16


class Architecture(NamedTuple):
    """What a name in ``architectures`` stands for."""

    family: Literal["block", "eagle3"]
    style: Style
    masks_only: bool = False
    """Whether the anchor's own position drafts nothing."""


ARCHITECTURES: dict[str, Architecture] = {
    "Qwen3DSparkModel": Architecture("block", "qwen3"),
    "Gemma4DSparkModel": Architecture("block", "gemma4"),
    "DFlashDraftModel": Architecture("block", "qwen3", masks_only=True),
    "Qwen3Eagle3Model": Architecture("eagle3", "qwen3"),
    "Gemma4Eagle3Model": Architecture("eagle3", "gemma4"),
    "LlamaForCausalLMEagle3": Architecture("eagle3", "llama"),
}


class DraftConfig(BaseModel):
    """The fields that every drafter reads, by their names in the file where it has one of its own.

    ``target_layer_ids`` are the target's layers, from 0, whose outputs are injected. ``head_dim`` and
    ``num_key_value_heads`` are those of Gemma 4's full-attention layers. Fields of the file that are not here are the
    target's, copied there by DeepSpec, and are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

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

    @property
    def style(self) -> Style:
        return ARCHITECTURES[self.architecture].style

    @property
    def gamma(self) -> int:
        """Drafts of a block."""
        raise NotImplementedError

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
        """Writes ``config.json`` with what DeepSpec, transformers and SGLang read beside our own fields."""
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
        content |= _gemma(self) if self.style == "gemma4" else _plain(self)
        content |= self._written()
        write_atomically(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")

    def _written(self) -> dict[str, Any]:
        """What the family's files hold besides."""
        return {}


class BlockConfig(DraftConfig):
    """DSpark, and DFlash, which has neither a serial head (``markov_rank`` is 0) nor a confidence head.

    ``block_size`` counts a block's tokens: as many as it drafts, or one more where the anchor drafts nothing.
    """

    block_size: int = Field(gt=0, le=MAX_GAMMA + 1)
    mask_token_id: int = Field(ge=0)
    num_anchors: int = Field(default=512, gt=0)
    markov_rank: int = Field(default=0, ge=0)
    markov_head_type: SerialHead = "vanilla"
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = False

    @property
    def masks_only(self) -> bool:
        return ARCHITECTURES[self.architecture].masks_only

    @property
    def gamma(self) -> int:
        return self.block_size - self.masks_only

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if not 1 <= self.gamma <= MAX_GAMMA:
            raise InputError(f"block_size: {self.block_size} gives {self.gamma} drafts; 1 to {MAX_GAMMA} are possible")
        if self.mask_token_id >= self.vocab_size:
            raise InputError(f"mask_token_id: {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        if self.masks_only and (self.markov_rank or self.enable_confidence_head):
            raise InputError("markov_rank, enable_confidence_head: DFlashDraftModel has neither; set both to 0, false")
        if self.confidence_head_with_markov and not self.markov_rank:
            raise InputError("confidence_head_with_markov: true needs a markov_rank above 0")
        return self

    def _written(self) -> dict[str, Any]:
        if not self.masks_only:
            return {}
        injected = {"mask_token_id": self.mask_token_id, "target_layer_ids": list(self.target_layer_ids)}
        return {"dflash_config": injected}


class Eagle3Config(DraftConfig):
    """Eagle3: one layer, unrolled ``ttt_length`` times in training, whose step k weighs ``step_loss_decay`` ** k."""

    ttt_length: int = Field(default=7, gt=0, le=MAX_GAMMA)
    step_loss_decay: float = Field(default=0.8, gt=0.0, le=1.0)

    @property
    def gamma(self) -> int:
        return self.ttt_length

    @model_validator(mode="after")
    def _one_layer(self) -> Self:
        if self.num_hidden_layers != 1:
            raise InputError(f"num_hidden_layers: {self.num_hidden_layers} is not implemented for Eagle3; use 1")
        return self

    def _written(self) -> dict[str, Any]:
        layers = list(self.target_layer_ids)
        return {
            "draft_num_hidden_layers": self.num_hidden_layers,
            "draft_vocab_size": self.vocab_size,
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": layers, "use_aux_hidden_state": True},
            "num_aux_hidden_states": len(layers),
        }


def read(folder: Path) -> BlockConfig | Eagle3Config:
    """Reads ``config.json`` of a checkpoint.

    Raises:
        InputError: It is absent, is not JSON, or is not a draft that is implemented here.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a checkpoint") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    names = content.get("architectures") if isinstance(content, dict) else None
    if not isinstance(names, list) or len(names) != 1 or names[0] not in ARCHITECTURES:
        raise InputError(f"{path}: architectures: {names!r} is not a draft; one of {', '.join(ARCHITECTURES)}")
    family = Eagle3Config if ARCHITECTURES[names[0]].family == "eagle3" else BlockConfig
    try:
        return family.model_validate(_flat(content, names[0]))
    except ValidationError as error:
        raise from_validation(error, path, content) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _flat(content: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The file's content with what other layouts nest, or call otherwise, at the names of the fields here."""
    flat = content | {"architecture": architecture}
    nested = content.get("rope_parameters") or {}
    # Gemma 4 has one rotary embedding a kind of layer; transformers 5 nests what transformers 4 wrote at the top.
    nested = nested.get("full_attention", nested)
    if content.get("rope_theta") is None and "rope_theta" in nested:
        flat["rope_theta"] = nested["rope_theta"]
    kind = nested.get("rope_type", "default")
    if kind not in ("default", "proportional"):
        raise InputError(f"rope_parameters.rope_type: {kind!r}; only 'default' and 'proportional' are implemented")
    flat["rotary_share"] = nested.get("partial_rotary_factor", 1.0)
    if ARCHITECTURES[architecture].style == "gemma4":
        for field, refused in (("enable_moe_block", True), ("use_double_wide_mlp", True)):
            if content.get(field) is refused:
                raise InputError(f"{field}: true is not implemented")
        if content.get("hidden_size_per_layer_input"):
            raise InputError(f"hidden_size_per_layer_input: {content['hidden_size_per_layer_input']!r}; must be 0")
        flat["head_dim"] = content.get("global_head_dim", content.get("head_dim"))
        flat["keys_are_values"] = bool(content.get("attention_k_eq_v"))
        if flat["keys_are_values"]:
            flat["num_key_value_heads"] = content.get("num_global_key_value_heads")
    for field, value in (content.get("dflash_config") or {}).items():
        flat.setdefault(field, value)
    aux = (content.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    if aux is not None:
        flat.setdefault("target_layer_ids", aux)
    return flat


def _plain(config: DraftConfig) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "model_type": "llama" if config.style == "llama" else "qwen3",
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
    }


def _gemma(config: DraftConfig) -> dict[str, Any]:
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
