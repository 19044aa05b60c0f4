"""Feed-forward parts of the layers of a config, with their widths."""

from __future__ import annotations

from typing import Any, Final

from sglang_dspark.shapes.config.layer_types import exclusive_feed_forward
from sglang_dspark.shapes.fields import Fields

EXPERTS: Final = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_ACTIVE: Final = (
    "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "experts_per_token", "moe_topk", "moe_top_k",
    "moe_k", "num_selected_experts",
)  # fmt: skip
_EXPERT_WIDTH: Final = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size")
_SHARED: Final = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
_SHARED_WIDTH: Final = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
    "shared_intermediate_size",
)  # fmt: skip
_DENSE_WIDTH: Final = (
    "intermediate_size_mlp",
    "dense_intermediate_size",
    "intermediate_size",
    "n_inner",
    "ffn_hidden_size",
    "ffn_dim",
    "block_ff_dim",
)
# Architectures whose feed-forward layers have no gate, and activations used without a gate.
_PLAIN: Final = {
    "arcee", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron",
    "nemotron_h", "opt", "persimmon", "phi", "phimoe_plain", "starcoder2", "nanochat",
}  # fmt: skip
_PLAIN_ACTIVATIONS: Final = {"relu2", "relu", "squared_relu", "relu_squared", "xielu"}


def feed_forwards(fields: Fields) -> list[tuple[dict[str, Any], ...]]:
    """Feed-forward parts of each layer: none, one or several."""
    matrices = 2 if _is_plain(fields) else 3
    types = exclusive_feed_forward(fields)
    experts = fields.get(*EXPERTS, default=0)
    wide = fields.get("enable_moe_block", default=True)
    if not experts or experts == 1 or not wide:
        fields.read.update((*_ACTIVE, *_EXPERT_WIDTH))
        layers = range(fields.layers)
        return [(_dense(fields, i, matrices),) if types is None or types[i] else () for i in layers]
    moe = _experts(fields, matrices)
    if types is None:
        types = ["moe" if routed else "dense" for routed in _routed_layers(fields)]
    if fields.has("zero_expert_num"):
        # LongCat-Flash: experts and two dense parts. A zero expert multiplies nothing.
        zero = fields.number("zero_expert_num")
        moe["active"] = round(moe["active"] * moe["experts"] / (moe["experts"] + zero))
        dense = _dense(fields, 0, matrices)
        return [(dense, dense, moe)] * fields.layers
    return [(moe,) if one == "moe" else (_dense(fields, i, matrices),) if one else () for i, one in enumerate(types)]


def _is_plain(fields: Fields) -> bool:
    names = ("mlp_hidden_act", "hidden_act", "hidden_activation", "activation_function", "ffn_act_fn")
    activations = {fields.get(name, default=None) for name in names}
    model_type = fields.get("model_type", default="")
    # Only configs with GPT-2's field names have ``n_embd``, and only Nemotron-H has the pattern.
    signs = fields.has("n_embd") or fields.has("hybrid_override_pattern")
    return bool(signs or model_type in _PLAIN or _PLAIN_ACTIVATIONS & {a for a in activations if isinstance(a, str)})


def _dense(fields: Fields, layer: int, matrices: int) -> dict[str, Any]:
    widths = fields.get(*_DENSE_WIDTH, default=None)
    if isinstance(widths, list):
        width = fields.listed(*_DENSE_WIDTH)
        assert width is not None
        wide = int(width[layer])
    elif widths is None and fields.has("n_embd"):
        wide = 4 * int(fields.number("n_embd"))
    else:
        wide = int(fields.number(*_DENSE_WIDTH))
    shared = int(fields.number("num_kv_shared_layers", default=0))
    if fields.flag("use_double_wide_mlp") and layer >= fields.layers - shared:
        wide *= 2
    if fields.flag("block_auto_adjust_ff_dim"):
        # LFM2 keeps the number of weights of a layer without a gate.
        multiple = fields.number("block_multiple_of")
        wide = int(fields.get("block_ffn_dim_multiplier", default=1.0) * (2 * wide // 3))
        wide = -(-wide // multiple) * multiple
    side = fields.number("hidden_size_per_layer_input", default=0)
    return {"kind": "dense", "intermediate": wide, "matrices": matrices, "side_width": side}


def _experts(fields: Fields, matrices: int) -> dict[str, Any]:
    width = fields.number(*_EXPERT_WIDTH, "intermediate_size")
    return {
        "kind": "moe",
        "intermediate": width,
        "matrices": matrices,
        "experts": fields.number(*EXPERTS),
        "active": fields.number(*_ACTIVE),
        "shared_intermediate": _shared_width(fields, width),
        "latent": fields.number("moe_latent_size", "routed_expert_hidden_size", default=None),
    }


def _shared_width(fields: Fields, width: int) -> int:
    """Width of the part that every token uses in addition to its routed experts."""
    count = int(fields.number(*_SHARED, default=0))
    named = int(fields.number(*_SHARED_WIDTH, default=0))
    if named:
        return named
    if fields.flag("enable_moe_block"):
        # Gemma 4: a dense part in addition to the experts.
        return int(fields.number("intermediate_size"))
    if fields.has("intermediate_size_mlp", "interleave_moe_layer_step") and not count:
        # Llama 4: one shared expert without a field.
        return width
    return count * width


def _routed_layers(fields: Fields) -> list[bool]:
    """Whether each layer has routed experts: true unless a field makes the layer dense."""
    routed = [True] * fields.layers

    def keep(condition: list[bool]) -> None:
        routed[:] = [a and b for a, b in zip(routed, condition, strict=True)]

    at = range(fields.layers)
    types = fields.listed("mlp_layer_types")
    if types is not None:
        return [one != "dense" for one in types]
    frequency = fields.get("moe_layer_freq", default=1)
    if isinstance(frequency, list):
        keep([bool(one) for one in frequency[: fields.layers]])
        frequency = 1
    first = int(fields.number("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0))
    last = fields.get("moe_layer_end_index", default=-1)
    keep([i >= first and (last < 0 or i <= last) and i % frequency == 0 for i in at])
    interval = int(fields.number("moe_layer_interval", default=1))
    keep([(i + 1) % interval == 0 for i in at])
    step = int(fields.number("decoder_sparse_step", "interleave_moe_layer_step", default=1))
    dense = fields.get("mlp_only_layers", default=[])
    keep([(i + 1) % step == 0 and i not in dense for i in at])
    period = int(fields.number("expert_layer_period", default=1))
    offset = int(fields.number("expert_layer_offset", default=0))
    keep([i % period == offset % period for i in at])
    listed = fields.get("moe_layers", "moe_layers_enum", default=None)
    if isinstance(listed, str):
        listed = [int(one) for one in listed.split(",") if one.strip()]
    if listed:
        keep([i in listed for i in at])
    return routed
