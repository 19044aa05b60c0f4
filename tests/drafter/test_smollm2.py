"""The prompts of the SmolLM2 example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from sglang_dspark.drafter.smollm2 import write_prompts


def test_what_is_measured_on_is_not_trained_on(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    asked = {
        file.stem: [json.loads(line)["turns"][0] for line in file.read_text().splitlines()]
        for file in tmp_path.glob("*.jsonl")
    }
    assert set(asked) == {"train", "validation", "code", "explain", "list"}
    everything = [text for texts in asked.values() for text in texts]
    assert len(set(everything)) == len(everything)
    assert all("{" not in text for text in everything)
    # Every form is seen in training, with other subjects.
    assert min(len(texts) for texts in asked.values()) >= 18 and len(asked["train"]) > 1000
