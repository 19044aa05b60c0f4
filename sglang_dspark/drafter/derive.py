"""A drafter's architecture from its target's and what a recipe says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sglang_dspark.drafter.config import BlockConfig, Eagle3Config, SerialHead
from sglang_dspark.errors import InputError, from_validation

Layers = Annotated[tuple[int, ...], Field(min_length=1)]


class _Draft(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    target_layer_ids: Layers
    intermediate_size: int | None = Field(default=None, gt=0)
    """The target's if absent."""


class DSparkDraft(_Draft):
    """DSpark: blocks of ``block_size`` drafts, the first of them from the anchor."""

    family: Literal["dspark"]
    block_size: int = Field(default=7, gt=0, le=16)
    layers: int = Field(default=5, gt=0)
    mask_token_id: int = Field(ge=0)
    markov_rank: int = Field(default=256, gt=0)
    markov_head_type: SerialHead = "vanilla"


class DFlashDraft(_Draft):
    """DFlash as SGLang serves it: ``drafts`` mask tokens after the anchor, all drafted at once."""

    family: Literal["dflash"]
    drafts: int = Field(default=7, gt=0, le=16)
    layers: int = Field(default=5, gt=0)
    mask_token_id: int = Field(ge=0)


class Eagle3Draft(_Draft):
    """Eagle3, unrolled ``ttt_length`` times. ``qk_norm`` is DeepSpec's layer, which SGLang does not serve."""

    family: Literal["eagle3"]
    ttt_length: int = Field(default=7, gt=0, le=16)
    qk_norm: bool = False


Draft = Annotated[DSparkDraft | DFlashDraft | Eagle3Draft, Field(discriminator="family")]


def derive(draft: DSparkDraft | DFlashDraft | Eagle3Draft, target: Any, anchors: int) -> BlockConfig | Eagle3Config:
    """The draft for a target.

    Args:
        target: transformers' text configuration of the target.
        anchors: blocks a text in training, which DeepSpec's files name.

    Raises:
        InputError: The target has no such layers, or is none that a drafter of this family is implemented for.
    """
    try:
        return _derived(draft, target, anchors)
    except ValidationError as error:
        raise from_validation(error, "draft") from error


def _derived(draft: DSparkDraft | DFlashDraft | Eagle3Draft, target: Any, anchors: int) -> BlockConfig | Eagle3Config:
    gemma = str(target.model_type).startswith("gemma4")
    backbone = _backbone(target, gemma) | {"target_layer_ids": draft.target_layer_ids}
    if draft.intermediate_size is not None:
        backbone["intermediate_size"] = draft.intermediate_size
    if isinstance(draft, Eagle3Draft):
        own = "Gemma4Eagle3Model" if gemma else "Qwen3Eagle3Model" if draft.qk_norm else "LlamaForCausalLMEagle3"
        return Eagle3Config(architecture=own, num_hidden_layers=1, ttt_length=draft.ttt_length, **backbone)
    common = backbone | {
        "num_hidden_layers": draft.layers,
        "mask_token_id": draft.mask_token_id,
        "num_anchors": anchors,
    }
    if isinstance(draft, DFlashDraft):
        if gemma:
            # SGLang's DFlashDraftModel has Qwen3's layers only; DeepSpec's has Gemma's, and drafts from the anchor.
            return BlockConfig(architecture="Gemma4DSparkModel", block_size=draft.drafts, **common)
        return BlockConfig(architecture="DFlashDraftModel", block_size=draft.drafts + 1, **common)
    return BlockConfig(
        architecture="Gemma4DSparkModel" if gemma else "Qwen3DSparkModel",
        block_size=draft.block_size,
        markov_rank=draft.markov_rank,
        markov_head_type=draft.markov_head_type,
        enable_confidence_head=True,
        confidence_head_with_markov=True,
        **common,
    )


def _backbone(target: Any, gemma: bool) -> dict[str, Any]:
    heads = target.num_attention_heads
    head_dim = getattr(target, "head_dim", None) or target.hidden_size // heads
    kv_heads = target.num_key_value_heads or heads
    ropes = target.rope_parameters or {}
    if gemma:
        head_dim = getattr(target, "global_head_dim", None) or head_dim
        if target.attention_k_eq_v:
            kv_heads = target.num_global_key_value_heads or kv_heads
        ropes = ropes.get("full_attention", ropes)
        if target.enable_moe_block or target.hidden_size_per_layer_input:
            raise InputError("target: Gemma 4 with experts or per-layer inputs is not implemented")
    kind = ropes.get("rope_type", "default")
    if kind not in ("default", "proportional"):
        raise InputError(f"target: rope_type {kind!r} is not implemented; only 'default' and 'proportional' are")
    return {
        "vocab_size": target.vocab_size,
        "hidden_size": target.hidden_size,
        "intermediate_size": target.intermediate_size,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": target.rms_norm_eps,
        "rope_theta": ropes.get("rope_theta", 10000.0),
        "rotary_share": ropes.get("partial_rotary_factor", 1.0),
        "max_position_embeddings": target.max_position_embeddings,
        "num_target_layers": target.num_hidden_layers,
        "final_logit_softcapping": getattr(target, "final_logit_softcapping", None),
        "keys_are_values": gemma and bool(target.attention_k_eq_v),
    }
