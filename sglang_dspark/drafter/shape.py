"""The ``draft`` block of a recipe, and the draft configuration derived from it and the target. No torch."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.errors import InputError, from_validation


class DraftShape(BaseModel):
    """Base of a family's ``draft`` block; ``intermediate_size`` defaults to the target's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    HAS_CONFIDENCE: ClassVar[bool] = False
    """Whether the family has a confidence head to train."""

    family: str
    target_layer_ids: Annotated[tuple[int, ...], Field(min_length=1)]
    intermediate_size: int | None = Field(default=None, gt=0)

    @abstractmethod
    def config(self, backbone: dict[str, Any], gemma: bool, anchors: int) -> DraftConfig:
        """Return the draft configuration.

        Args:
            backbone: Fields of :class:`DraftConfig` that follow from the target and the common fields of this block.
            gemma: Whether the target is a Gemma 4.
            anchors: Blocks per text in training, which DeepSpec's files name.
        """


def derive(shape: DraftShape, target: Any, anchors: int) -> DraftConfig:
    """Derive the draft configuration for a target.

    Args:
        target: transformers' text configuration of the target.
        anchors: Blocks per text in training.

    Raises:
        InputError: The target lacks the named layers, or the family does not implement this kind of target.
    """
    gemma = str(target.model_type).startswith("gemma4")
    backbone = _backbone(target, gemma) | {"target_layer_ids": shape.target_layer_ids}
    if shape.intermediate_size is not None:
        backbone["intermediate_size"] = shape.intermediate_size
    try:
        return shape.config(backbone, gemma, anchors)
    except ValidationError as error:
        raise from_validation(error, "draft") from error


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
    rope_type = ropes.get("rope_type", "default")
    if rope_type not in ("default", "proportional"):
        raise InputError(f"target: rope_type {rope_type!r} is not implemented; only 'default' and 'proportional' are")
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
