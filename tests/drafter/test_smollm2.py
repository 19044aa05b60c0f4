"""The prompts of the SmolLM2 example."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest
import yaml

pytest.importorskip("transformers")

from sglang_dspark.demo.build.smollm2 import main, write_prompts


def test_what_is_measured_on_is_not_trained_on(tmp_path: Path) -> None:
    # Kept: with an s as well. Left: a verb, a subject of the file, the middle of a word, no plural.
    kept, left = ("glacier", "region"), ("Ġbuild", "Ġbuilds", "Ġbuilding", "Ġrain", "Ġrains", "gulf", "gulfs", "Ġmist")
    write_prompts(tmp_path, [*left, *(f"Ġ{noun}{end}" for noun in kept for end in ("s", ""))])
    asked = {
        file.stem: [json.loads(line)["turns"][0] for line in file.read_text().splitlines()]
        for file in tmp_path.glob("*.jsonl")
    }
    assert set(asked) == {"train", "validation", "code", "explain", "list"}
    everything = [text for texts in asked.values() for text in texts]
    assert len(set(everything)) == len(everything)
    assert all("{" not in text for text in everything)
    # Every form is seen in training, with other subjects.
    kinds = yaml.safe_load((resources.files("sglang_dspark.demo.build") / "smollm2.yaml").read_text(encoding="utf-8"))
    for name, kind in kinds.items():
        measured = [s for s in kind["subjects"].split(", ") if kind["forms"][0].format(s) in asked[name]]
        assert len(measured) * len(kind["forms"]) == len(asked[name])
        seen = {*asked["train"], *asked["validation"]}
        for form in kind["forms"]:
            assert not {form.format(s) for s in measured} & seen
            assert [text for text in seen if text.startswith(form.split("{}")[0])]
    assert min(len(texts) for texts in asked.values()) >= 18 and len(asked["train"]) > 2000
    once = [text for noun in kept for text in asked["train"] if noun in text]
    assert once == [
        "Explain glacier to a child.",
        "List ten glaciers.",
        "What is region and why does it matter?",
        "Give me a numbered list of ten regions.",
    ]
    assert not [text for text in asked["train"] if re.search(r"\bbuilds?\b|gulf|mist", text)]
    assert "Write a Python function that sorts the days of a month." in asked["train"]


@pytest.mark.parametrize(
    ("kind", "said"), [("absent", "cannot be read"), ("empty", "cannot be read"), ("other", "holds 0 GGUF files")]
)
def test_what_is_no_wheel_of_it_is_refused_in_one_line(
    kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "a.whl"
    if kind == "empty":
        wheel.touch()
    elif kind == "other":
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("readme", "")
    monkeypatch.setattr(sys, "argv", ["smollm2", str(wheel), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(printed) == 1
    assert printed[0].startswith(f"smollm2: error: {wheel}: ") and said in printed[0]
    assert not (tmp_path / "out").exists()
