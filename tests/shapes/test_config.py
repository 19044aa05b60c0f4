"""Shapes from ``config.json``: reduced configurations with known sizes, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.config import class_defaults, read, shape
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.model import ModelShape

REDUCED = json.loads((Path(__file__).parent / "data" / "reduced_configs.json").read_text(encoding="utf-8"))

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
MOE = QWEN3_8B | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 1024}
HYBRID = QWEN3_8B | {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 64,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
LATENT = QWEN3_8B | {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def written(folder: Path, content: Any, side: Any = None) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    if side is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(side), encoding="utf-8")
    return path


def read_here(config: dict[str, Any], **options: Any) -> ModelShape:
    return shape(config, "config.json", **options)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, None),
        ({"max_position_embeddings": 40960, "rope_scaling": None}, 40960),
        ({"max_position_embeddings": 32768, "rope_scaling": {"type": "linear", "factor": 2.0}}, 65536),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
    ],
)
def test_the_context_length_is_sglangs(fields: dict[str, Any], tokens: int | None) -> None:
    assert read_here(QWEN3_8B | fields).context_length == tokens


# --- sizes that their makers publish, from the fields that decide them


@pytest.mark.parametrize(
    ("case", "parameters", "weight_bytes", "kv_bytes"),
    [
        ("F01", 284e9, 155e9, 3850),
        ("F02", 120.7e9, 241.4e9, 8192),
        ("F04", 400.7e9, 801.4e9, 196608),
        ("F06", 26.9e9, 53.8e9, 65536),
        ("F08", 1026e9, 594e9, 70272),
        ("F10", 32.8e9, 34e9, 131072),
        ("F11", 116.8e9, 65e9, 36864),
        ("F12", 25.2e9, 50.4e9, 20480),
        ("F14", 9.24e9, 18.5e9, 344064),
        ("F16", 2800e9, 1490e9, 27648),
        ("F17", 15.7e9, 31.4e9, 31104),
        ("F19", 32.8e9, 19.5e9, 262144),
        ("F21", 79.7e9, 159.3e9, 24576),
        ("F24", 70.6e9, 72e9, 163840),
    ],
)
def test_reduced_configurations(
    tmp_path: Path, case: str, parameters: float, weight_bytes: float, kv_bytes: int
) -> None:
    config = REDUCED[case]
    model = read(written(tmp_path, config["config"], config.get("hf_quant_config")))
    assert model.parameters() == pytest.approx(parameters, rel=0.01)
    assert model.weight_bytes() == pytest.approx(weight_bytes, rel=0.025)
    assert model.kv_bytes_per_token() == pytest.approx(kv_bytes, abs=1)


@pytest.mark.parametrize(("case", "active"), [("F02", 12.7e9), ("F04", 17.2e9), ("F12", 3.8e9), ("F21", 3.9e9)])
def test_active_parameters(case: str, active: float) -> None:
    assert read_here(REDUCED[case]["config"]).active_parameters() == pytest.approx(active, rel=0.02)


def test_a_recurrent_state_by_hand() -> None:
    """48 layers of 48 heads of 128 x 128 float32, and three tokens of the convolution in bf16."""
    model = read_here(REDUCED["F06"]["config"])
    state, window = 48 * 48 * 128 * 128 * 4, 48 * (2 * 16 * 128 + 48 * 128) * 3 * 2
    assert model.state_bytes() == state + window and state == pytest.approx(151e6, rel=0.001)
    assert model.state_bytes(8) == model.state_bytes(), "heads are split over GPUs"
    half = REDUCED["F06"]["config"]["text_config"] | {"mamba_ssm_dtype": "bfloat16"}
    assert read_here(half).state_bytes() == state / 2 + window


# --- fields


def test_windows_are_kept_apart_from_kv_by_token() -> None:
    types = ["sliding_attention", "full_attention"] * 18
    model = read_here(QWEN3_8B | {"layer_types": types, "sliding_window": 1024})
    assert model.kv_bytes_per_token() == 18 * 2 * 8 * 128 * 2
    assert model.window_bytes() == 1024 * model.kv_bytes_per_token()
    # SGLang's pool has 0.8 tokens of sliding layers for one of full layers.
    assert model.pool_bytes_per_token() == pytest.approx(1.8 * model.kv_bytes_per_token())
    assert model.weight_bytes() == read_here(QWEN3_8B).weight_bytes()


@pytest.mark.parametrize(
    ("fields", "full"),
    [
        ({"sliding_window_pattern": 6, "sliding_window": 512}, 6),
        ({"sliding_window_pattern": "LLLG", "sliding_window": 512}, 9),
        ({"use_sliding_window": True, "max_window_layers": 28, "sliding_window": 512}, 28),
        ({"use_sliding_window": False, "max_window_layers": 28, "sliding_window": 512}, 36),
        ({"hybrid_layer_pattern": [0, 1, 1] * 12, "sliding_window": 512}, 12),
        ({"attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 9}, 9),
        ({"attention_chunk_size": 8192}, 9),
        ({"layer_types": ["chunked_attention"] * 30 + ["full_attention"] * 6, "attention_chunk_size": 8192}, 6),
        ({"sliding_window": None}, 36),
    ],
)
def test_the_ways_to_say_which_layers_slide(fields: dict[str, Any], full: int) -> None:
    assert read_here(QWEN3_8B | fields).kv_bytes_per_token() == full * 2 * 8 * 128 * 2


def test_a_lone_window_is_counted_whole_and_said() -> None:
    model = read_here(QWEN3_8B | {"sliding_window": 4096})
    assert model.kv_bytes_per_token() == 36 * 2 * 8 * 128 * 2
    assert any("sliding_window 4096" in note for note in model.notes)


@pytest.mark.parametrize(
    ("fields", "routed"),
    [
        ({"first_k_dense_replace": 3}, 33),
        ({"num_dense_layers": 2}, 34),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, 17),
        ({"moe_layer_freq": [0, *([1] * 35)]}, 35),
        ({"mlp_only_layers": [0, 5], "decoder_sparse_step": 1}, 34),
        ({"decoder_sparse_step": 2}, 18),
        ({"interleave_moe_layer_step": 2}, 18),
        ({"mlp_layer_types": ["dense", *["sparse"] * 35]}, 35),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 34, "moe_layer_interval": 1}, 34),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, 18),
        ({"moe_layers_enum": "4,5,6"}, 3),
    ],
)
def test_the_ways_to_say_which_layers_have_experts(fields: dict[str, Any], routed: int) -> None:
    model = read_here(MOE | fields)
    # Llama 4's step stands for a shared expert too, which no field names.
    assert sum(model.routed_weights().values()) == routed * 8 * 3 * 4096 * 1024
    layers = {part.kind: part.layers for part in model.feed_forward}
    assert (layers["moe"], layers.get("dense", 0)) == (routed, 36 - routed)


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"n_shared_experts": 2}, 2048),
        ({"num_shared_experts": 1}, 1024),
        ({"num_shared_expert": 1}, 1024),
        ({"moe_num_shared_experts": 1}, 1024),
        ({"shared_expert_intermediate_size": 5632}, 5632),
        ({"n_shared_experts": 1, "moe_shared_expert_intermediate_size": 3712}, 3712),
        ({"share_expert_dim": 1280}, 1280),
        ({"enable_moe_block": True}, 12288),
        ({"n_shared_experts": None}, 0),
        ({"n_shared_experts": 0}, 0),
    ],
)
def test_shared_experts_under_all_their_names(fields: dict[str, Any], width: int) -> None:
    plain, model = read_here(MOE), read_here(MOE | fields)
    assert model.parameters() - plain.parameters() == 36 * 3 * 4096 * width
    assert model.active_parameters() - plain.active_parameters() == 36 * 3 * 4096 * width


@pytest.mark.parametrize("name", ["num_experts_per_token", "top_k_experts", "moe_topk", "moe_k"])
def test_the_active_count_under_other_names(name: str) -> None:
    other = {key: value for key, value in MOE.items() if key != "num_experts_per_tok"}
    assert read_here(other | {name: 2}).active_parameters() == read_here(MOE).active_parameters()


def test_latent_experts_work_on_their_own_width() -> None:
    model = read_here(MOE | {"moe_latent_size": 512})
    assert sum(model.routed_weights().values()) == 36 * 8 * 3 * 512 * 1024
    narrow = sum(model.dense_weights().values()) - sum(read_here(MOE).dense_weights().values())
    assert narrow == 36 * 2 * 4096 * 512


def test_a_null_query_rank_is_a_full_projection_and_a_missing_one_is_missing() -> None:
    low, full = read_here(LATENT), read_here(LATENT | {"q_lora_rank": None})
    query = 32 * 192
    assert full.parameters() - low.parameters() == 36 * (4096 * query - 1536 * (4096 + query))
    with pytest.raises(InputError, match="q_lora_rank: missing"):
        read_here({name: value for name, value in LATENT.items() if name != "q_lora_rank"})


def test_index_keys_are_kv_and_limit_what_decoding_reads() -> None:
    index = {"index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128}
    plain, model = read_here(LATENT), read_here(LATENT | index)
    assert model.kv_bytes_per_token() - plain.kv_bytes_per_token() == 36 * (128 + 4)
    assert model.attention[0].read_bytes_per_context_token(1) == 36 * 132
    assert model.attention[0].fixed_read_bytes(1) == 36 * 2048 * 576 * 2
    # FP8 rows: 512 + 4 scales of 4 bytes + 64 rotary values in bf16 (656), and the index.
    assert read_here(LATENT | index, kv_dtype="fp8").kv_bytes_per_token() == pytest.approx(36 * (656 + 132))
    shared = read_here(LATENT | index | {"indexer_types": ["full", "shared"] * 18})
    assert shared.kv_bytes_per_token() == 36 * 1152 + 18 * 132


def test_interval_and_list_say_the_same_of_linear_layers() -> None:
    by_interval = read_here(HYBRID | {"full_attention_interval": 4})
    by_list = read_here(HYBRID | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]})
    assert by_interval == by_list
    assert by_interval.kv_bytes_per_token() == 2 * 8 * 128 * 2
    assert by_interval.state_bytes() == 3 * (4 * 32 * 64 * 4 + (2 * 2 * 64 + 4 * 32) * 3 * 2)


def test_layers_that_take_over_keys_and_values_store_none() -> None:
    types = ["sliding_attention", "full_attention"] * 18
    sliding = QWEN3_8B | {"layer_types": types, "sliding_window": 512}
    model = read_here(sliding | {"num_kv_shared_layers": 12})
    assert model.kv_bytes_per_token() == 12 * 2 * 8 * 128 * 2
    assert read_here(sliding).parameters() - model.parameters() == 12 * 2 * 4096 * 8 * 128


def test_the_decoder_of_several_modalities_counts() -> None:
    tower = {"hidden_size": 1024, "depth": 24, "intermediate_size": 4096}
    alone, nested = read_here(QWEN3_8B), read_here({"text_config": QWEN3_8B, "vision_config": tower})
    encoder = 24 * (4 * 1024**2 + 2 * 1024 * 4096)
    projection = 1024 * 1024 + 1024 * 4096
    assert nested.parameters() - alone.parameters() == encoder + projection == nested.tower_parameters
    assert nested.active_parameters() == alone.active_parameters(), "text does not use it"
    assert read_here({**QWEN3_8B, "text_config": None, "vision_config": None}) == alone


def test_an_encoder_of_unknown_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"vision_config\.depth or .* the encoder is unknown; plan from a profile"):
        read_here({"text_config": QWEN3_8B, "vision_config": {"hidden_size": 1024}})


def test_tied_embeddings_are_stored_once() -> None:
    """Without a field, embeddings are tied, except in mixtures and with latents."""
    untied = read_here(QWEN3_8B).weight_bytes()
    table = 2 * 4096 * 151936
    assert untied - read_here(QWEN3_8B | {"tie_word_embeddings": True}).weight_bytes() == table
    silent = {name: value for name, value in QWEN3_8B.items() if name != "tie_word_embeddings"}
    assert untied - read_here(silent).weight_bytes() == table
    assert any("taken as true" in note for note in read_here(silent).notes)
    assert not read_here({name: value for name, value in MOE.items() if name != "tie_word_embeddings"}).tied
    nested = {"tie_word_embeddings": True, "text_config": silent}
    assert read_here(nested).weight_bytes() == untied - table


def test_multi_token_prediction_is_left_out_and_said() -> None:
    model = read_here(MOE | {"num_nextn_predict_layers": 1})
    assert model.parameters() == read_here(MOE).parameters()
    assert any("multi-token-prediction" in note for note in model.notes)


# --- defaults of configuration classes


def test_the_class_says_what_the_config_leaves_out() -> None:
    """Gemma 2 ties its embeddings, and every other layer slides: neither is in its config.json."""
    pytest.importorskip("transformers")
    config = REDUCED["F14"]["config"] | {"model_type": "gemma2"}
    model = read_here(config)
    assert model.tied and model.kv_bytes_per_token() == 21 * 2 * 8 * 256 * 2
    assert model.parameters() == pytest.approx(9.24e9, rel=0.001)
    llama = {name: value for name, value in QWEN3_8B.items() if name != "tie_word_embeddings"}
    assert not read_here(llama | {"model_type": "llama"}).tied


def test_without_the_classes_missing_fields_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_defaults, "installed", lambda: False)
    config = REDUCED["F14"]["config"] | {"model_type": "gemma2"}
    with pytest.raises(InputError, match=r"tie_word_embeddings: missing; .*pip install 'sglang-dspark\[shapes\]'"):
        read_here(config)


# --- refusals


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"architectures": ["RwkvForCausalLM"], "hidden_size": 4096, "vocab_size": 65536},
            ["architecture RwkvForCausalLM", "num_hidden_layers or n_layer", "num_attention_heads or n_head",
             "intermediate_size", "complete config.json"],
        ),
        ({"architectures": None}, ["architecture unnamed", "hidden_size or n_embd", "vocab_size"]),
        (QWEN3_8B | {"num_hidden_layers": -3}, ["num_hidden_layers: -3", "whole number"]),
        (QWEN3_8B | {"num_hidden_layers": 0}, ["num_hidden_layers: 0", "at least 1"]),
        (QWEN3_8B | {"head_dim": "wide"}, ["head_dim: 'wide'", "whole number"]),
        (QWEN3_8B | {"tie_word_embeddings": "yes"}, ["tie_word_embeddings: 'yes'", "true or false"]),
        (QWEN3_8B | {"layer_types": ["full_attention"]}, ["layer_types", "1 entries for 36 layers"]),
        (QWEN3_8B | {"layer_types": ["hyena"] * 36}, ["layer_types", "'hyena' are not supported", "measured"]),
        (QWEN3_8B | {"layer_types": ["mamba"] * 36}, ["layer 0", "mamba", "measured"]),
        (QWEN3_8B | {"compress_ratios": [16] * 36}, ["compress_ratios", "ratio 16", "measured"]),
        (QWEN3_8B | {"text_config": "qwen3"}, ["text_config: 'qwen3'", "mapping"]),
        (QWEN3_8B | {"num_memory_layers": 4}, ["num_memory_layers: 4", "layout that is not supported", "measured"]),
        (QWEN3_8B | {"engram_table_sizes": [2, 3]}, ["engram_table_sizes: [2, 3]", "not supported", "measured"]),
        (QWEN3_8B | {"block_configs": [{"ffn": 1}]}, ["block_configs", "not supported", "measured"]),
        (QWEN3_8B | {"is_encoder_decoder": True}, ["is_encoder_decoder: True", "not supported"]),
        (MOE | {"text_config": MOE | {"zero_width_experts": 3}}, ["text_config.zero_width_experts: 3", "supported"]),
        ([1, 2], ["holds no fields"]),
        (REDUCED["F23"]["config"], ["quantization_config: 'fp8'", "mapping of fields"]),
    ],
)  # fmt: skip
def test_what_it_cannot_use_is_named(tmp_path: Path, content: Any, said: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError) as refused:
        read(path)
    line = str(refused.value)
    assert all(part in line for part in [str(path), *said]), line
    assert "\n" not in line and "another name" not in line


def test_a_layout_is_refused_before_a_field_is_missed() -> None:
    """The error must not suggest adding a field, which would give a plan of another model."""
    config = {name: value for name, value in MOE.items() if name != "num_experts_per_tok"}
    with pytest.raises(InputError, match="hash_heads: 8 belongs to a layout that is not supported"):
        read_here(config | {"hash_heads": 8})


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.json")
    broken = tmp_path / "config.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        read(broken)


def test_a_number_is_whole_and_positive() -> None:
    fields = Fields("config.json", {"a": True, "b": 1.5, "c": 0, "d": None, "e": 2.0})
    for name in "abc":
        with pytest.raises(InputError, match=f"config.json: {name}: "):
            fields.number(name)
    assert (fields.number("c", default=7), fields.number("d", null=True), fields.number("e")) == (7, None, 2)
    assert fields.number("f", "g") == 1 and fields.missing == ["f or g"]
