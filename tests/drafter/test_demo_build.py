"""The build of the demo pair (``make demo-pair``), shrunk to a minute."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dspark_tuning.cli import app
from sglang_dspark.demo import text
from sglang_dspark.demo.build import target
from sglang_dspark.drafter.pair import load
from sglang_dspark.drafter.training import recipe

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_the_pair_is_built_by_the_commands_of_the_makefile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document for document in text.documents() if document.klass == "code"][:150]
    assert {document.held_out for document in documents} == {True, False}
    monkeypatch.setattr(target, "documents", lambda: documents)
    monkeypatch.setattr(target, "BATCH", 2)
    monkeypatch.setattr(target, "LENGTH", 48)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["target", "--out", "target", "--steps", "2", "--threads", "1"])
    target.main()
    shrunk = recipe.load("demo-dspark").model_dump(mode="json")
    sizes = {"steps": 2, "batch": 2, "micro_batch": 2, "anchors": 4, "evaluate_every": 2, "evaluate_texts": 2}
    Path("recipe.yaml").write_text(yaml.safe_dump(shrunk | sizes | {"target": "target", "precision": "float32"}))
    rule = MAKEFILE.read_text().split("demo-pair: $(VENV)/serve\n")[1].split("\n\n")[0].replace("\\\n", " ")
    monkeypatch.setattr(sys, "argv", ["text", "prompts", "--train", "4", "--held-out", "1", "--tokens", "24"])
    text.main()
    for name in ("train", "validation"):
        lines = Path(f"prompts/{name}.jsonl").read_text().splitlines(keepends=True)
        Path(f"prompts/{name}.jsonl").write_text("".join(lines[:4]))
    commands = [line.split() for line in re.findall(r"\$\(DSPARK\) (.*)", rule)]
    assert [words[0] for words in commands] == ["data", "data", "data", "train", "eval"]
    changes = {
        "demo": "target",
        "256": "8",
        "128": "8",
        "demo-dspark": "recipe.yaml",
        "$(PACKAGE)/draft": "dspark/draft",
    }
    for words in commands:
        done = CliRunner().invoke(app, [changes.get(word, word) for word in words])
        assert done.exit_code == 0, (words, done.output)
    pair = load("target", Path("dspark/draft"), "cpu")
    assert pair.drafter.config.gamma == 7
    figures = json.loads(Path("eval/figures.json").read_text())["figures"]
    assert {each["dataset"] for each in figures} == {*text.CLASSES, "all"}
