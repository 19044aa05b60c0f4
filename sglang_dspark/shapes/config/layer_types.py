"""Token mixers of the layers of a config. A new notation is a function here and an entry of ``_NOTATIONS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sglang_dspark.shapes.attention.base import CONV, FULL, LINEAR, MAMBA, SLIDING
from sglang_dspark.shapes.fields import Fields, short

NONE: Final = ""
# Mixers of a layer: usually one; none in a feed-forward layer; two in parallel in Falcon-H1, two in sequence in
# LongCat-Flash.
Mixers = tuple[str, ...]

# Other names of the same types.
_ALIASES: Final = {
    "attention": FULL,
    "full": FULL,
    "*": FULL,
    "global": FULL,
    "global_attention": FULL,
    "hybrid_attention": FULL,
    "deepseek_sparse_attention": FULL,
    "indexed_attention": FULL,
    "sliding": SLIDING,
    "swa": SLIDING,
    "local": SLIDING,
    "local_attention": SLIDING,
    "chunked_attention": SLIDING,
    "linear": LINEAR,
    "kda": LINEAR,
    "gated_delta_net": LINEAR,
    "mamba2": MAMBA,
    "M": MAMBA,
    "E": NONE,
    "-": NONE,
    "moe": NONE,
    "mlp": NONE,
    "short_conv": CONV,
}
_KNOWN: Final = {
    FULL, SLIDING, LINEAR, MAMBA, CONV, NONE, "compressed_sparse_attention", "heavily_compressed_attention",
    "compressed:0", "compressed:4", "compressed:128",
}  # fmt: skip


def mixers(fields: Fields) -> list[Mixers]:
    """The mixers of each layer.

    Raises:
        InputError: The type of a layer is not supported.
    """
    # Every notation reads its fields, so that none of them counts as unread.
    readings = [notation(fields) for notation in _NOTATIONS]
    types = next((types for types in readings if types is not None), None) or _everywhere(fields)
    both = (MAMBA, FULL) if fields.has("mamba_d_ssm") else (FULL, FULL) if fields.has("zero_expert_num") else None
    return [both or ((one,) if one else ()) for one in types]


def exclusive_feed_forward(fields: Fields) -> list[str] | None:
    """Feed-forward part of each layer (moe, dense or none) if layers are either that or a mixer, as in Nemotron-H."""
    pattern = fields.listed("hybrid_override_pattern", "layers_block_type")
    if pattern is None or not {"E", "-", "moe", "mlp"}.intersection(pattern):
        return None
    fields.read.add("mtp_layers_block_type")
    parts = {"E": "moe", "moe": "moe", "-": "dense", "mlp": "dense"}
    return [parts.get(one, NONE) for one in pattern]


def _named(fields: Fields, *names: str) -> list[str] | None:
    listed = fields.listed(*names)
    if listed is None:
        return None
    types = [_ALIASES.get(one, one) for one in listed]
    for one in types:
        if one not in _KNOWN:
            raise fields.wrong(names, f"layers of type {short(one)} are not supported; {fields.remedy}")
    return types


def _pattern(fields: Fields) -> list[str] | None:
    return _named(fields, "hybrid_override_pattern", "layers_block_type")


def _compress_ratios(fields: Fields) -> list[str] | None:
    ratios = fields.listed("compress_ratios")
    if ratios is None:
        return None
    types = [f"compressed:{ratio}" for ratio in ratios]
    if unknown := set(types) - _KNOWN:
        ratio = min(unknown).partition(":")[2]
        raise fields.wrong(("compress_ratios",), f"layers of ratio {ratio} are not supported; {fields.remedy}")
    return types


def _layer_types(fields: Fields) -> list[str] | None:
    return _named(fields, "layer_types")


def _kimi(fields: Fields) -> list[str] | None:
    if not fields.has("linear_attn_config"):
        return None
    inner = fields.inner("linear_attn_config")
    # Layers are numbered from 1.
    linear = set(inner.get("kda_layers") or ())
    inner.get("full_attn_layers", default=None)
    return [LINEAR if i + 1 in linear else FULL for i in range(fields.layers)]


def _attn_type_list(fields: Fields) -> list[str] | None:
    listed = fields.listed("attn_type_list")
    return None if listed is None else [FULL if one == 1 else LINEAR for one in listed]


def _full_attention_interval(fields: Fields) -> list[str] | None:
    interval = fields.number("full_attention_interval", default=0)
    if not interval or not fields.has("linear_num_value_heads"):
        return None
    return _every(fields, interval, FULL, LINEAR)


def _hybrid_layer_pattern(fields: Fields) -> list[str] | None:
    listed = fields.listed("hybrid_layer_pattern")
    return None if listed is None else [SLIDING if one == 1 else FULL for one in listed]


def _attention_indices(fields: Fields) -> list[str] | None:
    indices = fields.get("attn_layer_indices", "full_attn_idxs", default=None)
    if not indices or not fields.has("mamba_n_heads", "conv_L_cache"):
        return None
    other = CONV if fields.has("conv_L_cache") else MAMBA
    return [FULL if i in indices else other for i in range(fields.layers)]


def _local_indices(fields: Fields) -> list[str] | None:
    indices = fields.get("local_layer_ids", default=None)
    return None if indices is None else [SLIDING if i in indices else FULL for i in range(fields.layers)]


def _attention_period(fields: Fields) -> list[str] | None:
    period = fields.number("attn_layer_period", default=0)
    if not period:
        return None
    offset = fields.number("attn_layer_offset", default=0)
    return [FULL if i % period == offset else MAMBA for i in range(fields.layers)]


def _sliding_window_pattern(fields: Fields) -> list[str] | None:
    names = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    pattern = fields.get(*names, default=None)
    if pattern is None or not fields.has("sliding_window", "sliding_window_size"):
        return None
    if isinstance(pattern, str):
        # EXAONE 4: "LLLG", and the last layer is global.
        types = [FULL if pattern[i % len(pattern)] == "G" else SLIDING for i in range(fields.layers)]
        return [*types[:-1], FULL]
    return _every(fields, fields.number(*names), FULL, SLIDING)


def _chunked(fields: Fields) -> list[str] | None:
    if not fields.number("attention_chunk_size", default=0):
        return None
    rope = fields.get("no_rope_layers", default=None)
    if isinstance(rope, list) and rope:
        # 1 is rotary and chunked, 0 neither.
        return [SLIDING if one else FULL for one in rope[: fields.layers]]
    return _every(fields, fields.number("no_rope_layer_interval", default=4), FULL, SLIDING)


def _upper_layers(fields: Fields) -> list[str] | None:
    first = fields.number("max_window_layers", default=0)
    if not fields.flag("use_sliding_window") or not fields.has("sliding_window"):
        return None
    return [SLIDING if i >= first else FULL for i in range(fields.layers)]


def _everywhere(fields: Fields) -> list[str]:
    """Full attention as the default. A window without a list of layers is ignored, as engines do."""
    if (
        fields.has("sliding_window")
        and fields.get("use_sliding_window", default=True)
        and fields.config["sliding_window"] < (fields.get("max_position_embeddings", default=None) or float("inf"))
    ):
        fields.notes.append(
            f"{fields.where}sliding_window {fields.config['sliding_window']}: no field lists its layers; all layers "
            "are taken to attend to the whole context"
        )
    return [FULL] * fields.layers


def _every(fields: Fields, interval: int, special: str, usual: str) -> list[str]:
    """``special`` at the last of every ``interval`` layers."""
    return [special if (i + 1) % interval == 0 else usual for i in range(fields.layers)]


_NOTATIONS: Final[Sequence[Callable[[Fields], list[Any] | None]]] = (
    _pattern,
    _compress_ratios,
    _layer_types,
    _kimi,
    _attn_type_list,
    _full_attention_interval,
    _hybrid_layer_pattern,
    _attention_indices,
    _local_indices,
    _attention_period,
    _sliding_window_pattern,
    _chunked,
    _upper_layers,
)
