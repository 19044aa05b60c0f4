"""Refusal of unread fields that may indicate an unsupported layout."""

from __future__ import annotations

import re
from typing import Any, Final

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.fields import Fields, short

# Words in names of fields that give sizes, or the layers that have a part.
_SHAPE: Final = re.compile(
    r"(^|_)(size|sizes|dim|dims|rank|layer|layers|heads|head|experts|expert|ratio|ratios|pattern|types?|freq|period|"
    r"interval|groups?|blocks?|kernel|kernels|width|depth|mult|expand|indices|hash|ngram|vocab|topk|"
    r"streams|towers?|window|windows|state|states|lora|configs?|enum|embedding|embeddings|num|n|per)(_|$)"
)
# Fields of training, text processing, positions, normalisation and routing, which do not affect sizes.
_OTHER: Final = re.compile(
    r"rope|rotary|theta|position|yarn|token_id|token_index|(?<!layer)_ids?$|dropout|_drop|norm|init|std|eps|bias|loss|coef|"
    r"epsilon|softcap|scal|temperature|alpha|beta|dtype|version|cache|attn_implementation|architectures|auto_map|"
    r"activation|hidden_act|model_type|name|path|torch|tokenizer|pretrain|max_length|max_model_len|max_seq|seq_len|"
    r"sequence|context|n_ctx|chunk_size|sinkhorn|router|routing|topk_method|topk_group|n_group|num_expert_group|"
    r"score|gate_type|limit|query_pre_attn|problem|pad|label|return|output_|use_cache|gradient|summary|mrope|"
    r"logit|clamp|clip|image|video|audio|vision|frame|patch|seed|flash|kernels?_config|triton|inference|stop|task|"
    r"beam|sampl|penalty|pruned|finetun|transformers|mtp|nextn|kv_cache|use_mamba|time_step|dt_|residual|remap|"
    r"hc_|^dspark_|key_parallel|ep_size|tensor_parallel|pipeline|world|fp32|calc|is_|_args$|aux"
)
# Redundant fields, and fields without effect on sizes.
_HARMLESS: Final = {
    "attn_res_block_size", "block_dim", "block_ff_dim", "block_ffn_dim_multiplier", "block_mlp_init_scale",
    "block_multiple_of", "block_size", "chunk_size", "conv_dim", "dim_model_base", "expand",
    "first_k_dense_replace", "full_attention_interval", "global_attn_every_n_layers", "group_size", "head_dim",
    "hidden_size", "hybrid_layer_pattern", "index_head_dim", "index_n_heads", "index_skip_topk_offset",
    "intermediate_size", "layer_types", "mamba_chunk_size", "mamba_expand", "max_window_layers", "mlp_layer_types",
    "moe_latent_size", "moe_layer_freq", "moe_layers", "moe_router_topk", "mtp_layer_types", "n_head",
    "n_routed_experts", "no_rope_layer_interval", "no_rope_layers", "num_attention_heads", "num_experts",
    "num_hash_layers", "num_hidden_layers", "num_key_value_heads", "num_kv_heads", "num_local_experts",
    "num_nextn_predict_layers", "num_sliding_attention_heads", "q_lora_rank", "qk_head_dim", "qk_rope_head_dim",
    "rotary_dim", "sliding_window", "sliding_window_size", "sub_configs", "swa_head_dim", "swa_num_attention_heads",
    "swa_num_key_value_heads", "swa_v_head_dim", "swiglu_limits", "type_vocab_size", "unpadded_vocab_size",
    "use_sliding_window", "v_head_dim", "vocab_size", "vocab_size_per_layer_input", "word_embed_proj_dim",
}  # fmt: skip
# Unsupported layouts that the names of fields do not reveal.
_REFUSED: Final = {
    "is_encoder_decoder": (True,),
    "altup_num_inputs": None,
    "laurel_rank": None,
    "ngram_size": None,
    "sparse_attention_config": None,
    "index_topk_blocks": None,
    "indexer_kv_heads": None,
    "indexer_budget": None,
    "engram_config": None,
    "engram_layer_ids": None,
    "block_configs": None,
    "index_kpool": None,
    "ple_layer_ids": None,
    "use_parallel_residual_moe": (True,),
    "parallel_attn_mlp_res": (True,),
}


def check(fields: Fields) -> None:
    """Refuses fields that were not read and may change a count.

    Raises:
        InputError: There is one; it is named.
    """
    for name, value in fields.config.items():
        if name in _REFUSED:
            values = _REFUSED[name]
            refused = _says_something(value) if values is None else value in values
        else:
            unread = name not in fields.read and name not in _HARMLESS
            refused = unread and _says_something(value) and bool(_SHAPE.search(name)) and not _OTHER.search(name)
        if refused:
            raise InputError(
                f"{fields.source}: {fields.where}{name}: {short(value)} belongs to a layout that is not supported; "
                f"{fields.remedy}"
            )


def _says_something(value: Any) -> bool:
    """Whether a value may decide a size: not absent, false, 0, 1, empty or a word."""
    if value is None or isinstance(value, (bool, str)):
        return False
    if isinstance(value, (int, float)):
        return value not in (0, 1, -1)
    return bool(value)
