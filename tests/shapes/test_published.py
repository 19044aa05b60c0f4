"""Sizes of public models from their configurations, against published sizes.

``data/published_models.csv`` has for each model its published figures in billions of parameters and GB and where they
were read, and the name under which the package knows it, or the fields of its configuration and where these were read.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.shapes.config import shape
from sglang_dspark.shapes.config.class_defaults import installed
from sglang_dspark.shapes.known import known, names

with (Path(__file__).parent / "data" / "published_models.csv").open(encoding="utf-8", newline="") as table:
    MODELS = list(csv.DictReader(table))


def test_the_table_is_long_enough() -> None:
    assert len({row["model"] for row in MODELS}) >= 60
    assert all(row["source"] and (row["known"] or row["config_source"]) for row in MODELS)
    assert sum(bool(row["active_b"]) for row in MODELS) >= 15


def test_every_known_model_has_published_sizes() -> None:
    assert {row["known"] for row in MODELS if row["known"]} == set(names())


@pytest.mark.parametrize("row", MODELS, ids=[row["model"] for row in MODELS])
def test_sizes_are_the_published_ones(row: dict[str, Any]) -> None:
    if row["known"]:
        named = known(row["model"])
        assert named is not None and named.name == row["known"]
        model = named.model
    else:
        config = json.loads(row["config"])
        if "tie_word_embeddings" not in json.dumps(config) and not installed():
            pytest.skip("the class says whether the tables are tied, and transformers is not installed")
        model = shape(config, row["model"])
    assert model.parameters() == pytest.approx(float(row["parameters_b"]) * 1e9, rel=0.03)
    if row["active_b"]:
        assert model.active_parameters() == pytest.approx(float(row["active_b"]) * 1e9, rel=0.03)
    if row["checkpoint_gb"]:
        assert model.weight_bytes() == pytest.approx(float(row["checkpoint_gb"]) * 1e9, rel=0.03)


def test_parameters_are_those_of_the_models_code() -> None:
    """Parameters of the reference implementations of ``transformers``, built on the meta device."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kinds = [
        "deepseek_v4", "glm_moe_dsa", "gpt_oss", "qwen3_5_text", "qwen3_next", "kimi_linear", "nemotron_h",
        "gemma4_text", "jamba", "granitemoehybrid", "falcon_h1", "lfm2", "minimax", "llama4_text", "mimo_v2_flash",
    ]  # fmt: skip
    for kind in kinds:
        config = CONFIG_MAPPING[kind]()
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
        built.tie_weights()
        counted = sum(weights.numel() for weights in built.parameters())
        assert shape(config.to_dict(), kind).parameters() == pytest.approx(counted, rel=0.001), kind
