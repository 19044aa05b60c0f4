"""Stored sizes of modules under each quantisation, against sizes computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.config import read, shape
from sglang_dspark.shapes.model import ModelShape

DENSE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
MOE = DENSE | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "n_shared_experts": 1}
TABLES = 2 * 2 * 1024 * 1000
ATTENTION, MLP = 4 * 4 * 1024**2, 4 * 3 * 1024 * 4096
EXPERTS, SHARED, ROUTER = 4 * 8 * 3 * 1024 * 512, 4 * 3 * 1024 * 512, 4 * 1024 * 8


def quantized(config: dict[str, Any], method: dict[str, Any], **fields: Any) -> ModelShape:
    return shape(config | fields | {"quantization_config": method}, "config.json")


def scheme(bits: int, kind: str = "int", **fields: Any) -> dict[str, Any]:
    return {"weights": {"num_bits": bits, "type": kind, **fields}, "targets": ["Linear"]}


def compressed(*groups: dict[str, Any], **fields: Any) -> dict[str, Any]:
    named = {f"group_{i}": group for i, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, **fields}


ACTIVATIONS = {"num_bits": 8, "type": "float"}

UNIFORM = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1 + 4 / 128**2, "fp8"),
    ({"quant_method": "fp8"}, 1, "fp8"),
    ({"quant_method": "mxfp8"}, 1 + 1 / 32, "fp8"),
    ({"quant_method": "fbgemm_fp8"}, 1, "fp8"),
    (compressed(scheme(4, group_size=32)), 0.5 + 2 / 32, "bf16"),
    (compressed(scheme(4, group_size=128, symmetric=False)), 0.5 + 2.5 / 128, "bf16"),
    (compressed(scheme(8, "float") | {"input_activations": ACTIVATIONS}), 1, "fp8"),
    (compressed(scheme(8, "int") | {"input_activations": {"num_bits": 8}}), 1, "fp8"),
    (compressed(scheme(8, "int")), 1, "bf16"),
    (compressed(scheme(4, "float", group_size=16) | {"input_activations": {"num_bits": 4}}), 0.5 + 1 / 16, "fp4"),
    (compressed(scheme(4, "float", group_size=16)), 0.5 + 1 / 16, "bf16"),
    (compressed(scheme(4, "float", group_size=32), format="mxfp4-pack-quantized"), 0.5 + 1 / 32, "bf16"),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1, "fp8"),
    ({"quant_algo": "NVFP4"}, 0.5 + 1 / 16, "fp4"),
    ({"quant_algo": "NVFP4", "group_size": 32}, 0.5 + 1 / 32, "fp4"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128}, 0.5 + 2 / 128, "bf16"),
    (
        {name: part for name, part in compressed(scheme(4, group_size=32)).items() if name != "quant_method"},
        0.5625,
        "bf16",
    ),
    ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, 0.5 + 1 / 16, "fp4"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128, "bf16"),
    ({"quant_method": "gptq", "bits": 8, "group_size": 32}, 1 + 3 / 32, "bf16"),
    ({"quant_method": "gptq", "bits": 4, "group_size": -1}, 0.5, "bf16"),
    ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128, "bf16"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64, "bf16"),
    (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        0.5 + (1 + 4 / 256) / 64,
        "bf16",
    ),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1, "bf16"),
    ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, 1, "bf16"),
    (
        {
            "quant_method": "quark",
            "global_quant_config": {
                "weight": {"dtype": "fp4", "group_size": 32},
                "input_tensors": {"dtype": "fp4", "group_size": 32},
            },
        },
        0.5 + 1 / 32,
        "fp4",
    ),
]


@pytest.mark.parametrize(("method", "bytes_each", "form"), UNIFORM)
def test_every_linear_layer_and_neither_table(method: dict[str, Any], bytes_each: float, form: str) -> None:
    model = quantized(DENSE, method)
    assert model.weight_bytes() == pytest.approx(TABLES + bytes_each * (ATTENTION + MLP), rel=1e-9)
    assert {stored.format for stored in model.dense_weights()} == {form}
    mixture = quantized(MOE, method)
    linear = ATTENTION + EXPERTS + SHARED
    assert mixture.weight_bytes() == pytest.approx(TABLES + 2 * ROUTER + bytes_each * linear, rel=1e-9)


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["lm_head"], 0),
        (["re:.*self_attn.*"], ATTENTION),
        (["model.layers.*.self_attn*"], ATTENTION),
        (["model.layers.*.self_attn"], ATTENTION),
        (["model.language_model.layers.1.self_attn.q_proj"], 1024**2),
        (["language_model.model.layers.2.self_attn"], 4 * 1024**2),
        (["self_attn"], ATTENTION),
        (["q_proj"], 4 * 1024**2),
        (["layers.0.self_attn", "model.layers.3.self_attn.o_proj"], 5 * 1024**2),
        (["gate"], 0),
        (["mlp.gate"], 0),
        (["re:.*mlp.experts.*"], EXPERTS),
        (["block_sparse_moe"], EXPERTS + SHARED),
        (["re:.*block_sparse_moe.experts.*"], EXPERTS),
        (["re:backbone.layers.[01].mixer.experts.*"], EXPERTS // 2),
        (["*.mlp.shared_expert.*"], SHARED),
        (["re:.*shared_experts.*"], SHARED),
        (["mlp.shared_expert"], SHARED),
        (["model.layers.0*"], ATTENTION // 4 + EXPERTS // 4 + SHARED // 4),
        ([f"model.layers.{layer}.mlp.experts.0.down_proj" for layer in range(2)], EXPERTS // 2),
    ],
)
@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("ignore", compressed(scheme(4, group_size=32))),
        ("modules_to_not_convert", {"quant_method": "fp8"}),
        ("exclude_modules", {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    ],
)
def test_modules_that_are_left_out(names: list[str], left_out: float, key: str, method: dict[str, Any]) -> None:
    whole, model = quantized(MOE, method), quantized(MOE, method | {key: names})
    each = next(iter(whole.routed_weights())).bytes_per_weight
    assert model.weight_bytes() - whole.weight_bytes() == pytest.approx(left_out * (2 - each), rel=1e-9)


def test_only_the_experts() -> None:
    """As gpt-oss, and DeepSeek-V4 whose other layers are FP8."""
    model = quantized(MOE, {"quant_method": "mxfp4"})
    rest = ATTENTION + SHARED + ROUTER
    assert model.weight_bytes() == pytest.approx(TABLES + 2 * rest + 0.53125 * EXPERTS)
    v4 = quantized(MOE, {"quant_method": "fp8", "weight_block_size": [128, 128]}, expert_dtype="fp4")
    block = 1 + 4 / 128**2
    wanted = TABLES + 2 * ROUTER + block * (ATTENTION + SHARED) + 0.53125 * EXPERTS
    assert v4.weight_bytes() == pytest.approx(wanted)
    assert {stored.format for stored in v4.routed_weights()} == {"fp4_fp8"}, "multiplied with FP8 activations"


def test_groups_with_schemes_of_their_own() -> None:
    """A named target takes precedence over a class of modules."""
    fp8 = scheme(8, "float") | {"input_activations": ACTIVATIONS}
    experts = scheme(4, "float", group_size=16) | {"targets": ["re:.*mlp.experts.*"]}
    model = quantized(MOE, compressed(fp8, experts))
    assert model.weight_bytes() == pytest.approx(TABLES + 2 * ROUTER + ATTENTION + SHARED + 0.5625 * EXPERTS)


def test_mixed_precision_lists_each_module() -> None:
    layers = {f"model.layers.{i}.mlp.experts.{e}.down_proj": {"quant_algo": "NVFP4"} for i in range(4) for e in (0, 1)}
    layers |= {f"model.layers.{i}.self_attn.q_proj": {"quant_algo": "FP8"} for i in range(4)}
    method = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    model = quantized(MOE, method)
    rest = 2 * (ROUTER + SHARED + 3 * ATTENTION // 4)
    assert model.weight_bytes() == pytest.approx(TABLES + rest + ATTENTION // 4 + 0.5625 * EXPERTS)


def test_gptq_leaves_out_what_dynamic_says() -> None:
    method = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*self_attn.*": {}}}
    model = quantized(DENSE, method)
    assert model.weight_bytes() == pytest.approx(TABLES + 2 * ATTENTION + (0.5 + 2.5 / 128) * MLP)


@pytest.mark.parametrize(
    ("method", "kv_bytes"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, 1),
        ({"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1),
        ({"quant_algo": "FP8", "kv_cache_scheme": "FP8"}, 1),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None}, 2),
        ({"quant_algo": None, "kv_cache_quant_algo": "FP8"}, 1),
        (compressed(scheme(8, "float"), kv_cache_scheme={"num_bits": 8, "type": "float"}), 1),
        (compressed(scheme(8, "float"), kv_cache_scheme=None), 2),
        ({"quant_method": "fp8"}, 2),
    ],
)
def test_the_kv_cache_is_what_the_checkpoint_says_unless_told(method: dict[str, Any], kv_bytes: float) -> None:
    config = DENSE | {"quantization_config": method}
    each = 4 * 2 * 8 * 128
    assert shape(config, "config.json").kv_bytes_per_token() == each * kv_bytes
    assert shape(config, "config.json", "bf16").kv_bytes_per_token() == each * 2
    assert shape(config, "config.json", "fp8").kv_bytes_per_token() == each
    assert shape(config, "config.json", "fp4").kv_bytes_per_token() == each * 0.5625


def test_a_side_file_counts_where_the_config_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE), encoding="utf-8")
    plain = read(tmp_path / "config.json")
    side = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(side), encoding="utf-8")
    model = read(tmp_path / "config.json")
    assert plain.weight_bytes() == TABLES + 2 * (ATTENTION + MLP)
    assert model.weight_bytes() == pytest.approx(TABLES + 0.5625 * (ATTENTION + MLP))
    own = DENSE | {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(own), encoding="utf-8")
    assert read(tmp_path / "config.json").weight_bytes() == TABLES + ATTENTION + MLP
    (tmp_path / "config.json").write_text(json.dumps(DENSE), encoding="utf-8")
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": "FP8"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"hf_quant_config.json: quantization: 'FP8' is not valid"):
        read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"quant_method": "aqlm"}, "quantization_config.quant_method: 'aqlm' is not supported; fp8, .* or plan from a"),
        ({"bits": 4}, "quant_method: None is not supported"),
        ({"quant_method": "awq", "group_size": 128}, "quantization_config.bits or w_bit: missing"),
        ({"quant_method": "awq", "bits": 4, "group_size": "all"}, "group_size: 'all'"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quant_algo: 'FP3' .*NVFP4"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size: 128"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert: 'lm_head'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
    ],
)
def test_what_is_not_counted_is_named(method: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        quantized(DENSE, method)


def test_an_unknown_expert_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="expert_dtype: 'int3' is not valid; fp8 and fp4 are supported"):
        quantized(MOE, {"quant_method": "fp8"}, expert_dtype="int3")
