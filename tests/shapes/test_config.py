"""Shapes of models from their ``config.json``, against sizes that their makers publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.config import read

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
QWEN3_30B_A3B = QWEN3_8B | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
MIXTRAL_8X7B = LLAMA_3_8B | {"vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK_V3 = {
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "quantization_config": {"quant_method": "fp8"},
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("config", "parameters", "bytes_each", "rel", "kv_bytes"),
    [
        (QWEN3_8B, 8.2e9, 2, 0.01, 36 * 2 * 8 * 128 * 2),
        (QWEN3_30B_A3B, 30.5e9, 2, 0.01, 48 * 2 * 4 * 128 * 2),
        (LLAMA_3_8B, 8.03e9, 2, 0.01, 32 * 2 * 8 * 128 * 2),
        (MIXTRAL_8X7B, 46.7e9, 2, 0.01, 32 * 2 * 8 * 128 * 2),
        # Its first three layers are dense, which the shape does not tell apart.
        (DEEPSEEK_V3, 671e9, 1, 0.06, 61 * 576 * 2),
    ],
)
def test_sizes_are_the_published_ones(
    tmp_path: Path, config: dict[str, Any], parameters: float, bytes_each: int, rel: float, kv_bytes: float
) -> None:
    shape = read(written(tmp_path, config))
    assert shape.weight_bytes() == pytest.approx(parameters * bytes_each, rel=rel)
    assert shape.attention.kv_bytes_per_token(shape.layers, 1) == kv_bytes


def test_the_decoder_of_several_modalities_counts(tmp_path: Path) -> None:
    nested = written(tmp_path, {"architectures": ["SomeVL"], "text_config": QWEN3_8B})
    assert read(nested).weight_bytes() == read(written(tmp_path, QWEN3_8B)).weight_bytes()


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    untied = read(written(tmp_path, QWEN3_8B)).weight_bytes()
    tied = read(written(tmp_path, QWEN3_8B | {"tie_word_embeddings": True})).weight_bytes()
    assert untied - tied == 2 * 4096 * 151936


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"architectures": ["RwkvForCausalLM"], "hidden_size": 4096, "vocab_size": 65536},
            ["architecture RwkvForCausalLM", "num_hidden_layers or n_layer", "num_attention_heads or n_head",
             "intermediate_size"],
        ),
        ({"model_type": "mamba"}, ["architecture mamba", "hidden_size or n_embd", "vocab_size"]),
        (DEEPSEEK_V3 | {"q_lora_rank": None}, ["lacks q_lora_rank"]),
        (QWEN3_8B | {"quantization_config": {"quant_method": "gptq"}}, ["quant_method", "'gptq'", "use fp8"]),
        (QWEN3_8B | {"num_hidden_layers": -3}, ["layers", "-3"]),
        ([1, 2], ["holds no fields"]),
    ],
)  # fmt: skip
def test_what_it_cannot_use_is_named(tmp_path: Path, content: Any, said: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError) as refused:
        read(path)
    assert all(part in str(refused.value) for part in [str(path), *said]), str(refused.value)


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.json")
    broken = tmp_path / "config.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        read(broken)
