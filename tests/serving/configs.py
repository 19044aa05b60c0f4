"""Configurations of tiny models of real classes, as far as SGLang's launch looks at them."""

from __future__ import annotations

from typing import Any

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "full_attention_interval": 4,
}
LATENT = {
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
INDEXER = {"index_head_dim": 32, "index_n_heads": 4, "index_topk": 64}
V4 = {
    **SIZES,
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 64,
    "o_lora_rank": 64,
    "o_groups": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "hc_mult": 2,
    "compress_ratios": [0, 4, 128, 0],
    "sliding_window": 128,
    "num_nextn_predict_layers": 1,
    "dspark_block_size": 5,
    "dspark_markov_rank": 32,
    "dspark_noise_token_id": 1,
    "dspark_target_layer_ids": [1, 2],
    **INDEXER,
    "index_head_dim": 128,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-next": {**SIZES, **DELTA, "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next"},
    "qwen3.5": {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": {**SIZES, **DELTA, "model_type": "qwen3_5_text"},
        "vision_config": {},
    },
    "v3": {**SIZES, **LATENT, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"},
    "glm5": {**SIZES, **LATENT, **INDEXER, "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa"},
    "v4": V4,
    "v4.1": {**V4, "model_type": "deepseek_v41", "engram_layer_ids": [1]},
    "kimi": {
        **SIZES,
        **LATENT,
        "architectures": ["KimiLinearForCausalLM"],
        "model_type": "kimi_linear",
        "num_experts": 8,
        "linear_attn_config": {
            "kda_layers": [1, 2, 3],
            "full_attn_layers": [4],
            "head_dim": 32,
            "num_heads": 4,
            "short_conv_kernel_size": 4,
        },
    },
    "nemotron-h": {
        **SIZES,
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M*M*",
        "mamba_num_heads": 8,
        "mamba_head_dim": 32,
        "ssm_state_size": 16,
        "n_groups": 2,
        "conv_kernel": 4,
        "chunk_size": 128,
    },
}
