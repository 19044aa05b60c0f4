"""A new drafter family is one file and one registry line: trained, saved and evaluated offline."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dspark_tuning.cli import app  # noqa: E402
from sglang_dspark.drafter import checkpoint, families  # noqa: E402
from sglang_dspark.drafter.families import FAMILIES, Family  # noqa: E402

FILE = '''
"""A drafter of bigrams: every draft depends on the token before it and nothing else."""

from typing import Literal

import torch
from pydantic import Field

from sglang_dspark.drafter.base import Drafter, Proposal, sample
from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.drafter.shape import DraftShape


class BigramConfig(DraftConfig):
    """Blocks of ``drafts`` drafts."""

    STYLES = {"BigramModel": "qwen3"}

    drafts: int = Field(gt=0)

    @property
    def gamma(self):
        return self.drafts


class BigramShape(DraftShape):
    """Blocks of ``drafts`` drafts."""

    family: Literal["bigram"]
    drafts: int = Field(gt=0)

    def config(self, backbone, gemma, anchors):
        return BigramConfig(architecture="BigramModel", num_hidden_layers=1, drafts=self.drafts, **backbone)


class BigramDrafter(Drafter[BigramConfig]):
    """Two layers over the embedding of the token before."""

    config_class = BigramConfig

    def __init__(self, config):
        super().__init__(config)
        self.map = torch.nn.Sequential(
            torch.nn.Linear(config.hidden_size, config.intermediate_size),
            torch.nn.SiLU(),
            torch.nn.Linear(config.intermediate_size, config.hidden_size),
        )

    def logits(self, previous, columns=None):
        return self.cap(self.head(self.norm(self.map(self.embed(previous))), columns))

    def teacher_forced(self, batch, anchors, previous, columns=None):
        return self.logits(previous, columns), None

    @torch.no_grad()
    def propose(self, tokens, lengths, features, temperature=0.0, generator=None):
        previous = tokens[torch.arange(len(tokens)), lengths - 1]
        drafts, probabilities = [], []
        for _ in range(self.config.gamma):
            previous, distribution = sample(self.logits(previous).float(), temperature, generator)
            drafts.append(previous)
            probabilities.append(distribution)
        return Proposal(torch.stack(drafts, 1), torch.stack(probabilities, 1), None)
'''


@pytest.fixture
def bigram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The family, registered for the test."""
    path = tmp_path / "bigram.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("toy_bigram", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy_bigram", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(FAMILIES, "bigram", Family(module.BigramShape, module.BigramDrafter))
    yield module


def test_a_family_of_one_file_is_trained_and_evaluated(
    bigram: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = {"role": "assistant", "content": "\n        return self.value\n" * 6}
    content = json.dumps({"conversations": [{"role": "user", "content": "def f(self):"}, line]})
    Path("answers.jsonl").write_text(f"{content}\n" * 4)
    recipe = {
        "target": "demo",
        "draft": {"family": "bigram", "drafts": 3, "intermediate_size": 64, "target_layer_ids": [0]},
        "losses": {"cross_entropy": 1.0, "place_ratio": 0.8},
        "data": {"train": ["answers.jsonl"], "held_out": ["answers.jsonl"], "max_length": 64},
        "steps": 60,
        "batch": 4,
        "micro_batch": 4,
        "anchors": 16,
        "learning_rate": 1e-2,
        "precision": "float32",
        "evaluate_every": 30,
        "evaluate_texts": 4,
        "save_every": 30,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = CliRunner().invoke(app, ["train", "recipe.yaml", "--out", "out", "--device", "cpu", "--json"])
    assert trained.exit_code == 0, trained.output
    result = json.loads(trained.stdout)
    # Few tokens follow one another in the text, so that pairs of them suffice.
    assert result["steps"] == 60 and result["accepted_length"] > 1.3
    drafter = checkpoint.load(Path("out/draft"))
    assert isinstance(drafter, bigram.BigramDrafter) and drafter.config.gamma == 3
    Path("code.jsonl").write_text(json.dumps({"turns": ["import os\n"]}) + "\n")
    arguments = ["--data", "code.jsonl", "--max-tokens", "16", "--temperature", "0", "--json"]
    evaluated = CliRunner().invoke(app, ["eval", "demo", "out/draft", *arguments])
    assert evaluated.exit_code == 0, evaluated.output
    figures = json.loads(evaluated.stdout)
    assert (figures["family"], figures["gamma"]) == ("BigramModel", 3)
    assert figures["figures"][0]["rounds"] > 0 and figures["figures"][0]["accepted_length"][0] >= 1.0


def test_a_toy_serial_head_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang_dspark.drafter import heads
    from sglang_dspark.drafter.block import BlockDrafter
    from tests.drafter.small import BLOCK, HEADS

    class HiddenHead(heads.MarkovHead):
        """The Markov bias doubled."""

        def step(self, previous, hidden, state):  # type: ignore[no-untyped-def]
            return 2.0 * self.markov_w1(previous), None

    monkeypatch.setitem(heads.SERIAL_HEADS, "doubled", HiddenHead)
    content = BLOCK | HEADS | {"markov_head_type": "doubled", "architectures": ["Qwen3DSparkModel"]}
    config = families.drafter_class("Qwen3DSparkModel").config_class.from_content(content, "Qwen3DSparkModel", "toy")
    drafter = families.make(config)
    assert isinstance(drafter, BlockDrafter) and isinstance(drafter.markov_head, HiddenHead)
    hidden = torch.zeros(2, drafter.config.gamma, drafter.config.hidden_size)
    proposal = drafter.draft(hidden, torch.tensor([3, 4]))
    before = torch.cat([torch.tensor([[3], [4]]), proposal.tokens[:, :-1]], dim=1)
    bias = drafter.logits(hidden, before) - drafter.cap(drafter.head(hidden))
    torch.testing.assert_close(bias, 2.0 * drafter.markov_head.markov_w2(drafter.markov_head.markov_w1(before)))
