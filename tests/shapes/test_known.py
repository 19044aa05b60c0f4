"""Models known by name: spellings, releases, drafts and the list in the docs. Their sizes: ``test_published``."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

from sglang_dspark.shapes.config import class_defaults, shape
from sglang_dspark.shapes.draft import USUAL
from sglang_dspark.shapes.known import Known, known, names, unknown

DOCS = Path(__file__).parents[2] / "docs" / "planning.md"


def found(name: str) -> Known:
    model = known(name)
    assert model is not None, name
    return model


@pytest.mark.parametrize(
    ("given", "name", "of_hub"),
    [
        ("Qwen3-8B", "Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen/qwen3-8b", "Qwen3-8B", "qwen/Qwen3-8B"),
        ("Qwen3-4B-Instruct-2507", "Qwen3-4B", "Qwen/Qwen3-4B-Instruct-2507"),
        ("qwen3-235b-a22b-thinking-2507", "Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B-Thinking-2507"),
        ("Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen3-30B-A3B-FP8", "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"),
        ("somebody/Llama-3.1-8B-Instruct", "Llama-3.1-8B", "somebody/Llama-3.1-8B-Instruct"),
        # A bare name stands for the release that is served.
        ("Llama-3.3-70B", "Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("gemma-4-12b", "gemma-4-12B", "google/gemma-4-12B-it"),
        ("google/gemma-4-31B", "gemma-4-31B", "google/gemma-4-31B"),
        # The first release of DeepSeek-V4 has no draft inside.
        ("deepseek-ai/DeepSeek-V4-Flash", "DeepSeek-V4-Flash", "deepseek-ai/DeepSeek-V4-Flash-0731"),
        ("deepseek-v4-pro-dspark", "DeepSeek-V4-Pro", "deepseek-ai/DeepSeek-V4-Pro-DSpark"),
        # The thinking release of Kimi-K2 is stored in four bits.
        ("Kimi-K2-Thinking", "Kimi-K2-Thinking", "moonshotai/Kimi-K2-Thinking"),
        ("Kimi-K2-Instruct-0905", "Kimi-K2", "moonshotai/Kimi-K2-Instruct-0905"),
    ],
)
def test_names_match_with_owner_release_and_case(given: str, name: str, of_hub: str) -> None:
    assert (found(given).name, found(given).id) == (name, of_hub)
    one, other = (found(text).model.model_copy(update={"context_length": None}) for text in (given, name))
    assert one == other


@pytest.mark.parametrize(
    "given", ["Qwen3-8B-FP8", "Qwen3-8B-AWQ", "Qwen9-1B", "Qwen3", "Kimi-K3-DSpark", "", "deepseek-ai/"]
)
def test_other_models_and_other_storage_are_unknown(given: str) -> None:
    assert known(given) is None


def test_unknown_names_get_similar_ones_and_the_remedy() -> None:
    message = str(unknown("Qwen/qwen3-8b-awq", "choices: model"))
    assert message.startswith("choices: model: 'Qwen/qwen3-8b-awq' is not known by name; did you mean Qwen3-8B")
    assert message.endswith("? Otherwise give its config.json")
    assert "known are Qwen3-0.6B, " in str(unknown("a model of mine"))


def test_kv_dtype_is_kept_apart() -> None:
    whole, half = (known("Qwen3-8B", "auto"), known("Qwen3-8B", "fp8"))
    assert whole is not None and half is not None
    assert half.model.kv_bytes_per_token() == whole.model.kv_bytes_per_token() / 2
    # The flag holds for the draft too, whose layers stay like the target's.
    assert half.draft == whole.draft == USUAL


def test_drafts_are_the_published_ones() -> None:
    four, pro, kimi = found("Qwen3-4B"), found("DeepSeek-V4-Pro"), found("Kimi-K3")
    assert four.draft == USUAL and four.draft_id == "deepseek-ai/dspark_qwen3_4b_block7" and not four.bundled
    assert pro.draft is not None and pro.bundled and pro.draft_id is None
    assert (pro.draft.layers, pro.draft.block, pro.draft.markov_rank) == (3, 5, 512)
    # A dense draft of a mixture.
    assert kimi.draft is not None and kimi.draft.own is not None and not kimi.draft.own.is_mixture
    assert not found("gemma-4-12B").draft_in_sglang
    without = found("Qwen3-32B")
    assert without.draft is None and without.draft_id is None and without.assumed_draft == USUAL


def test_known_models_need_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(whole: object) -> None:
        raise AssertionError("fields come from transformers")

    monkeypatch.setattr(class_defaults, "filled", missing)
    text = (resources.files("sglang_dspark.shapes") / "data" / "models.json").read_text(encoding="utf-8")
    for name, entry in json.loads(text).items():
        assert entry["source"] and shape(entry["config"], name) == found(name).model


def test_docs_list_the_known_models_and_their_drafts() -> None:
    section = DOCS.read_text(encoding="utf-8").split("## Known models\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`([\w.-]+)`", section.split("| ")[0])) == {
        name for name in names() if not found(name).draft
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    assert [row[0].strip("`") for row in rows] == [name for name in names() if found(name).draft]
    for row in rows:
        model = found(row[0].strip("`"))
        assert model.draft is not None
        where = f"`{model.draft_id}`" if model.draft_id else f"in `{model.id}`"
        assert row[1] == where
        sizes = [model.draft.block, model.draft.layers, model.draft.markov_rank]
        assert row[2:5] == [str(size) for size in sizes]
        assert row[5:7] == ["yes" if flag else "no" for flag in (model.confidence_head, model.draft_in_sglang)]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Qwen/Qwen3-30B-A3B", 40960),
        ("moonshotai/Kimi-K2-Instruct", 131072),
        # A release of the same shape with a longer context, which no stored config gives.
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", None),
    ],
)
def test_a_context_length_is_of_the_release_that_has_it(name: str, tokens: int | None) -> None:
    assert found(name).model.context_length == tokens
