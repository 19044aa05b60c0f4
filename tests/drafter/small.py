"""Small random targets and drafters of every family, scaled to sharper distributions than at initialisation."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig, Qwen3Config, Qwen3ForCausalLM

from sglang_dspark.drafter.base import Drafter
from sglang_dspark.drafter.block import BlockConfig
from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.drafter.eagle3 import Eagle3Config
from sglang_dspark.drafter.families import make
from sglang_dspark.drafter.target import Target

VOCABULARY = 40
GAMMA = 5
BACKBONE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "target_layer_ids": [0, 2],
    "num_target_layers": 4,
}
BLOCK = BACKBONE | {"block_size": GAMMA, "mask_token_id": 1, "num_anchors": 8}
HEADS = {"markov_rank": 8, "enable_confidence_head": True, "confidence_head_with_markov": True}
GEMMA = {"rotary_share": 0.5, "final_logit_softcapping": 5.0, "keys_are_values": True}

CONFIGS: dict[str, DraftConfig] = {
    "dspark": BlockConfig(architecture="Qwen3DSparkModel", **BLOCK | HEADS),
    "dspark-gated": BlockConfig(architecture="Qwen3DSparkModel", **BLOCK | HEADS | {"markov_head_type": "gated"}),
    "dspark-rnn": BlockConfig(
        architecture="Qwen3DSparkModel",
        **BLOCK | HEADS | {"markov_head_type": "rnn", "confidence_head_with_markov": False},
    ),
    "dspark-gemma4": BlockConfig(architecture="Gemma4DSparkModel", **BLOCK | HEADS | GEMMA),
    "dflash": BlockConfig(architecture="DFlashDraftModel", **BLOCK | {"block_size": GAMMA + 1}),
    "dflash-deepspec": BlockConfig(architecture="Qwen3DSparkModel", **BLOCK),
    "eagle3": Eagle3Config(
        architecture="LlamaForCausalLMEagle3", **BACKBONE | {"num_hidden_layers": 1, "ttt_length": GAMMA}
    ),
    "eagle3-qwen3": Eagle3Config(
        architecture="Qwen3Eagle3Model", **BACKBONE | {"num_hidden_layers": 1, "ttt_length": GAMMA}
    ),
    "eagle3-gemma4": Eagle3Config(
        architecture="Gemma4Eagle3Model", **BACKBONE | GEMMA | {"num_hidden_layers": 1, "ttt_length": GAMMA}
    ),
}


def sharpen(model: torch.nn.Module) -> None:
    """Makes outputs differ enough that acceptance is neither 0 nor 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)


def qwen3() -> Target:
    """A random target of four layers."""
    torch.manual_seed(0)
    shape = {key: BACKBONE[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    heads = {key: BACKBONE[key] for key in ("num_attention_heads", "num_key_value_heads")}
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **shape,
            **heads,
            num_hidden_layers=4,
            tie_word_embeddings=True,
            max_position_embeddings=256,
            eos_token_id=None,
        )
    )
    sharpen(model)
    return Target(model)


def gemma4() -> Target:
    """The same of Gemma 4, every second layer with full attention."""
    torch.manual_seed(0)
    model = Gemma4ForCausalLM(
        Gemma4TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_global_key_value_heads=2,
            head_dim=8,
            global_head_dim=16,
            attention_k_eq_v=True,
            hidden_size_per_layer_input=0,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=64,
            max_position_embeddings=256,
            final_logit_softcapping=5.0,
            rope_parameters={
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            eos_token_id=None,
        )
    )
    sharpen(model)
    return Target(model)


def drafter(name: str, target: Target) -> Drafter[Any]:
    """The drafter of one of :data:`CONFIGS` for the target."""
    torch.manual_seed(1)
    made = make(CONFIGS[name])
    made.initialize(target.embedding / 4.0, target.head / 4.0)
    sharpen(made)
    return made.eval()
