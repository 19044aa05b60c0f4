"""Vision and audio encoders of multimodal models, sized as plain transformers by width and depth."""

from __future__ import annotations

from typing import Final

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.fields import Fields

NAMES: Final = ("vision_config", "audio_config", "visual", "vision_tower_config", "speech_config")
# Encoders whose feed-forward width is that of their output; ``intermediate_size`` is their projection's.
_OUTPUT_WIDE: Final = ("glm4v", "glm46v")
# Encoders whose feed-forward layers have a gate.
_GATED: Final = ("silu", "swiglu", "swish")


def parameters(whole: Fields, hidden: int) -> float:
    """Weights of all encoders and of their projections to the decoder's width ``hidden``.

    Raises:
        InputError: An encoder's width or depth is not given.
    """
    encoders = [whole.inner(name) for name in NAMES if whole.has(name)]
    return sum(_tower(fields, hidden) for fields in encoders if fields.config)


def _tower(fields: Fields, hidden: int) -> float:
    before = len(fields.missing)
    width = fields.number("embed_dim", "hidden_size", "width", "vt_hidden_size", "d_model", "hidden_dim")
    depth = fields.number(
        "depth", "num_hidden_layers", "layers", "vt_num_hidden_layers", "encoder_layers", "n_layers", "num_layers"
    )
    if len(fields.missing) > before:
        lacking = ", ".join(fields.missing[before:])
        raise InputError(f"{fields.source}: {lacking}: missing, so the size of the encoder is unknown; {fields.remedy}")
    names = ["intermediate_size", "vt_intermediate_size", "encoder_ffn_dim"]
    if str(fields.get("model_type", default="")).startswith(_OUTPUT_WIDE):
        names = ["out_hidden_size"]
    wide = fields.number(*names, default=0)
    ratio = fields.get("mlp_ratio", default=4)
    wide = wide or int(width * ratio)
    gated = fields.get("hidden_act", "hidden_activation", default="gelu") in _GATED
    merge = fields.get("spatial_merge_size", "merge_size", default=1)
    merged = width * merge**2 if isinstance(merge, int) else width
    projection = merged * merged + merged * hidden
    return float(depth * (4 * width**2 + (3 if gated else 2) * width * wide) + projection)
