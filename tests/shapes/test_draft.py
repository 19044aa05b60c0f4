"""Configurations of drafts, against SGLang's own parsers and published sizes."""

from __future__ import annotations
import __future__

import ast
import importlib.util
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.shapes import draft as drafts
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.model import ModelShape, total_bytes

QWEN = {
    "architectures": ["Qwen3DSparkModel"],
    "hidden_size": 4096,
    "num_hidden_layers": 5,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "block_size": 7,
    "target_layer_ids": [1, 9, 17, 25, 33],
    "mask_token_id": 151669,
    "markov_rank": 256,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
}
MINIMAX = {
    "architectures": ["DSparkMiniMaxDraftModel"],
    "dspark_block_size": 6,
    "dspark_markov_rank": 128,
    "dspark_noise_token_id": 3,
    "text_config": {
        "hidden_size": 4096,
        "vocab_size": 151936,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 3072,
        "num_experts": 128,
        "dspark_config": {"use_dense_ffn": True, "ffn_hidden_size": 8192},
        "dflash_config": {"num_hidden_layers": 3, "num_target_layers": 36, "target_layer_ids": [5, 20]},
    },
}


# What SGLang's parser of draft configurations consists of.
PARSER = {
    "parse_dspark_draft_config", "DSparkDraftConfig", "SUPPORTED_DSPARK_MARKOV_HEAD_TYPES", "_get_nested_config",
    "_get_dspark_config", "parse_dflash_draft_config", "DFlashDraftConfig", "DEFAULT_DFLASH_MASK_TOKEN",
    "_get_dflash_config", "_parse_optional_int", "_cfg_get", "_get_text_config",
}  # fmt: skip


def target(name: str = "Qwen3-8B") -> ModelShape:
    model = known(name)
    assert model is not None
    return model.model


def refused(config: dict[str, Any], name: str = "Qwen3-8B") -> str:
    with pytest.raises(InputError) as error:
        drafts.parse(config, "draft/config.json", target(name))
    assert str(error.value).startswith("draft/config.json: ")
    return str(error.value)


def sglang_parser() -> Any:
    """SGLang's parser of draft configurations, without the imports of its modules, which take many seconds."""
    found = importlib.util.find_spec("sglang")
    if found is None or not found.submodule_search_locations:
        pytest.skip("sglang is not installed")
    speculative = Path(found.submodule_search_locations[0]) / "srt" / "speculative"
    scope: dict[str, Any] = {}
    exec("from numbers import Integral\nfrom typing import *\nfrom dataclasses import dataclass\nimport msgspec", scope)
    for file in ("dflash_utils.py", "dspark_components/dspark_config.py"):
        parsed = ast.parse((speculative / file).read_text(encoding="utf-8"))
        named = [(getattr(node, "name", None) or _target(node), node) for node in parsed.body]
        wanted: list[ast.stmt] = [node for name, node in named if name in PARSER]
        lazily = __future__.annotations.compiler_flag
        exec(compile(ast.Module(wanted, []), file, "exec", flags=lazily), scope)
    return scope["parse_dspark_draft_config"]


def _target(node: ast.stmt) -> str | None:
    """The name that a module assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return next((one.id for one in targets if isinstance(one, ast.Name)), None)


# Fields of a draft with values that are mostly valid, by the mappings that may hold them.
NESTED = ("", "", "dflash_config", "dspark_config", "text_config")
DRAWN: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "num_hidden_layers": (("", "text_config"), [1, 2, 5]),
    "block_size": (NESTED, [1, 5, 7, 7, 16, None, 0]),
    "markov_rank": (NESTED, [1, 64, 256, 256, None, 0, -1]),
    "markov_head_type": (NESTED, ["vanilla", "vanilla", "Gated", "rnn", None, "lstm"]),
    "mask_token_id": (NESTED, [0, 5, 151_669, 151_669, None, -1]),
    "target_layer_ids": (NESTED, [[1], [1, 9, 17], [35, 2], None, []]),
    "dspark_block_size": (("",), [3, None]),
    "dspark_markov_rank": (("",), [32, None, 0]),
    "dspark_noise_token_id": (("",), [9, None, -1]),
    "dspark_target_layer_ids": (("",), [[4, 5], None, []]),
}


def drawn(random: Random) -> dict[str, Any]:
    """A config with most fields in one place, some in two, and few prefixed ones."""
    config: dict[str, Any] = {"architectures": ["DSparkDraftModel"]}
    for name, (places, values) in DRAWN.items():
        often = 0.2 if name.startswith("dspark_") else 0.95
        for place in random.sample(places, min(len(places), random.choice((1, 1, 2)))):
            if random.random() < often:
                (config.setdefault(place, {}) if place else config)[name] = random.choice(values)
    return config


def test_fields_are_read_where_sglang_reads_them() -> None:
    parse, model, random, read = sglang_parser(), target(), Random(0), 0
    layers = {name: QWEN[name] for name in QWEN if name.endswith(("size", "heads", "dim")) and name != "block_size"}
    for _ in range(3000):
        config = drawn(random)
        # SGLang's layers read these in other classes.
        whole = config | layers
        if "text_config" in config:
            whole["text_config"] = config["text_config"] | layers
        try:
            wanted = parse(draft_hf_config=config)
        except (ValueError, TypeError):
            continue  # It also refuses faults in fields that others override.
        if not wanted.markov_rank or None in (wanted.mask_token_id, wanted.num_hidden_layers):
            refused(whole)
            continue
        draft = drafts.parse(whole, "draft/config.json", model)
        read += 1
        assert draft.shape.block == wanted.resolve_gamma(default=7), config
        assert draft.shape.layers == wanted.num_hidden_layers, config
        assert draft.shape.markov_rank == wanted.markov_rank, config
        assert draft.mask_token_id == wanted.mask_token_id, config
        assert draft.markov_head == (wanted.markov_head_type or "vanilla"), config
        assert (list(draft.target_layer_ids) if draft.target_layer_ids else None) == wanted.target_layer_ids, config
    assert read >= 300


def test_draft_of_deepspec_is_read_from_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN), encoding="utf-8")
    draft = drafts.read(tmp_path, target())
    assert draft == drafts.read(tmp_path / "config.json", target())
    assert draft.path == tmp_path and draft.confidence_head and draft.in_sglang and not draft.bundled
    # Its layers are like the target's.
    assert draft.shape == drafts.USUAL


def test_layers_unlike_the_targets_count_by_their_own_sizes() -> None:
    own = drafts.parse(QWEN | {"intermediate_size": 6144, "num_key_value_heads": 2}, "x", target()).shape
    usual = drafts.parse(QWEN, "x", target()).shape
    # Bytes in bf16 of half the feed-forward part, and of the keys and values of six heads of 128.
    feed_forward, heads = 2 * 5 * 3 * 4096 * 6144, 2 * 5 * 2 * 4096 * 6 * 128
    assert usual.weight_bytes(target()) - own.weight_bytes(target()) == pytest.approx(feed_forward + heads)
    assert own.kv_bytes_per_token(target(), 1) == 5 * 2 * 2 * 128 * 2
    # The rest of a mixture's draft is dense all the same.
    mixture = drafts.parse(QWEN | {"hidden_size": 2048}, "x", target("Qwen3-30B-A3B")).shape.backbone(target())
    assert not mixture.is_mixture and total_bytes(mixture.routed_weights()) == 0


@pytest.mark.parametrize(
    ("name", "parameters", "tables"),
    [
        # Parameters of the published files, and whether these hold the target's two tables.
        ("Qwen3-4B", 1.39e9, True),
        ("Qwen3-8B", 4_742_170_330 / 2, True),
        ("gemma-4-12B", 3.43e9, True),
        ("Kimi-K3", 2_249_289_601, False),
    ],
)
def test_published_drafts_have_their_published_size(name: str, parameters: float, tables: bool) -> None:
    model = known(name)
    assert model is not None and model.draft is not None
    counted = model.draft.weight_bytes(model.model) / 2
    counted += 2 * model.model.hidden * model.model.vocab if tables else 0
    assert counted == pytest.approx(parameters, rel=0.01)


def test_draft_inside_the_targets_checkpoint(tmp_path: Path) -> None:
    deepseek = target("DeepSeek-V4-Flash")
    fields = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "num_hidden_layers": 43,
        "dspark_block_size": 4,
        "dspark_markov_rank": 64,
        "dspark_noise_token_id": 7,
        "dspark_target_layer_ids": [10, 20],
    }
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    draft = drafts.bundled(tmp_path, deepseek)
    assert draft is not None and draft.bundled and draft == drafts.read(tmp_path, deepseek)
    assert draft.shape == drafts.DraftShape(layers=2, block=4, hidden_states=2, markov_rank=64)
    assert "dspark_n_routed_experts: 128 experts unlike the target's" in refused(
        fields | {"dspark_n_routed_experts": 128}
    )
    assert "dspark_target_layer_ids: missing" in refused(fields | {"dspark_target_layer_ids": None})
    # Other targets keep it in a folder of their own, or have none.
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}), encoding="utf-8")
    assert drafts.bundled(tmp_path, target()) is None
    (tmp_path / "dspark").mkdir()
    (tmp_path / "dspark" / "config.json").write_text(json.dumps(QWEN), encoding="utf-8")
    draft = drafts.bundled(tmp_path, target())
    assert draft is not None and draft.bundled and draft.shape == drafts.USUAL


def test_draft_of_minimax() -> None:
    draft = drafts.parse(MINIMAX, "x", target())
    assert (draft.shape.layers, draft.shape.block, draft.shape.markov_rank) == (3, 6, 128)
    assert draft.target_layer_ids == (5, 20) and draft.mask_token_id == 3
    own = draft.shape.own
    assert own is not None and not own.is_mixture
    attention, feed_forward = 2 * 4096 * 64 * 128 + 2 * 4096 * 4 * 128, 3 * 4096 * 8192
    assert sum(own.dense_weights().values()) == 3 * (attention + feed_forward)
    assert "use_dense_ffn" in refused(MINIMAX | {"text_config": {**MINIMAX["text_config"], "dspark_config": {}}})  # type: ignore[dict-item]
    assert "dspark_markov_rank: missing" in refused({**MINIMAX, "dspark_markov_rank": None})


@pytest.mark.parametrize(
    ("parts", "has"),
    [
        ({}, True),
        ({"enable_confidence_head": True}, True),
        ({"enable_confidence_head": False}, False),
        ({"dflash_config": {"enable_confidence_head": False}}, False),
        ({"enable_confidence_head": False, "dspark_config": {"enable_confidence_head": True}}, True),
    ],
)
def test_confidence_head_is_there_unless_disabled(parts: dict[str, Any], has: bool) -> None:
    plain = {name: value for name, value in QWEN.items() if name != "enable_confidence_head"}
    assert drafts.parse(plain | parts, "x", target()).confidence_head is has


def test_pass_without_a_draft_at_the_anchor_has_one_position_more() -> None:
    assert drafts.parse(QWEN, "x", target()).shape.anchor_drafts
    assert not drafts.parse(QWEN | {"sample_from_anchor": False}, "x", target()).shape.anchor_drafts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["DFlashDraftModel"]}, "is a DFlash draft"),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, "is an EAGLE draft"),
        ({"architectures": ["DeepseekV4ForCausalLMNextN"]}, "is a multi-token-prediction layer"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "is a target model without a draft"),
        ({"architectures": ["DeepseekV4ForCausalLM"]}, "is a target model without a draft"),
        ({"architectures": ["K3DSparkModel"]}, "is a DSpark draft that SGLang 0.5.23 has no class for"),
        ({"architectures": None}, "architectures: None is no DSpark draft"),
        ({"transformer_layer_config": {}}, "vLLM's speculators"),
        ({"markov_rank": 0}, "markov_rank: 0, as in a DFlash draft"),
        ({"markov_rank": "256"}, "markov_rank: '256' is not valid"),
        ({"markov_head_type": "lstm"}, "markov_head_type: 'lstm' is not valid; use one of vanilla, gated, rnn"),
        ({"block_size": True}, "block_size: True is not valid; give a whole number of at least 1"),
        ({"mask_token_id": None}, "mask_token_id: missing"),
        ({"mask_token_id": 151_936}, "but the target has a vocabulary of 151,936; give this target's draft"),
        ({"target_layer_ids": [1, 36]}, "target_layer_ids: [1, 36], but the target has 36 layers"),
        ({"target_layer_ids": "1"}, "target_layer_ids: '1' is not valid; give a list of layers"),
        ({"hidden_size": 2560}, "hidden_size: 2560, but the target has 4,096; give this target's draft"),
        ({"vocab_size": 1000}, "vocab_size: 1000, but the target has 151,936"),
        ({"dflash_config": 1}, "dflash_config: 1 is not valid; give a mapping of fields"),
        ({"intermediate_size": None}, "intermediate_size"),
    ],
)
def test_other_configs_are_refused_by_what_they_are(changes: dict[str, Any], message: str) -> None:
    assert message in refused(QWEN | changes)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read .*; give the config\.json of a DSpark draft"):
        drafts.read(tmp_path, target())
    (tmp_path / "config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        drafts.read(tmp_path, target())
