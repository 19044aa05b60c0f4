"""Training: resuming, refusals, and learning."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sglang_dspark import demo  # noqa: E402
from sglang_dspark.drafter import checkpoint  # noqa: E402
from sglang_dspark.drafter.data import cache  # noqa: E402
from sglang_dspark.drafter.data.passages import Passage, passages  # noqa: E402
from sglang_dspark.drafter.target import Target, load_tokenizer  # noqa: E402
from sglang_dspark.drafter.training import state, texts  # noqa: E402
from sglang_dspark.drafter.training.loop import Trainer, pace  # noqa: E402
from sglang_dspark.drafter.training.recipe import Recipe, load, names  # noqa: E402
from sglang_dspark.drafter.training.workers import Workers  # noqa: E402
from sglang_dspark.errors import InputError  # noqa: E402

DRAFTS: dict[str, dict[str, Any]] = {
    "dspark": {"block_size": 3, "layers": 1, "mask_token_id": 1, "markov_rank": 4},
    "dflash": {"drafts": 3, "layers": 1, "mask_token_id": 1},
    "eagle3": {"ttt_length": 3},
}
LOSSES: dict[str, dict[str, float]] = {
    "dspark": {"cross_entropy": 0.1, "total_variation": 0.9, "confidence": 1.0, "place_ratio": 0.8},
    "dflash": {"cross_entropy": 1.0, "place_ratio": 0.8},
    "eagle3": {"distillation": 1.0, "place_ratio": 0.8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that are easy to foresee."""
    file = tmp_path_factory.mktemp("data") / "answers.jsonl"
    lines = []
    for n in range(9):
        turns = [("user", f"def f{n}(self):"), ("assistant", f"\n        return self.value_{n}\n" * 3)]
        lines.append(json.dumps({"conversations": [{"role": role, "content": text} for role, text in turns]}))
    file.write_text("\n".join(lines) + "\n")
    return file


def recipe(data: Path, family: str = "dspark", **changes: Any) -> dict[str, Any]:
    return {
        "target": "demo",
        "draft": {"family": family, "intermediate_size": 32, "target_layer_ids": [0, 3], **DRAFTS[family]},
        "losses": LOSSES[family],
        "data": {"train": [str(data)], "held_out": [str(data)], "max_length": 48},
        "steps": 12,
        "batch": 4,
        "micro_batch": 2,
        "anchors": 4,
        "learning_rate": 1e-3,
        "precision": "float32",
        "evaluate_every": 4,
        "evaluate_texts": 4,
        "save_every": 3,
        **changes,
    }


def contents(folder: Path) -> dict[str, Any]:
    """All files, and the state's values: equal ones may be packed differently after they were read.

    A killed process may leave what it was writing under a hidden name.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    found[state.STATE] = plain(torch.load(folder / state.STATE, weights_only=True))
    return found


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def train(folder: Path, content: dict[str, Any]) -> state.Progress:
    return Trainer(Recipe.model_validate(content), folder, "cpu").run()


@pytest.mark.parametrize("family", DRAFTS)
def test_resumed_equals_uninterrupted(family: str, data: Path, tmp_path: Path) -> None:
    content = recipe(data, family)
    whole = train(tmp_path / "whole", content)
    assert whole.step == 12 and [line["step"] for line in whole.log] == [4, 8, 12]

    class StopError(Exception):
        pass

    def stop(step: int, name: str, value: float) -> None:
        if step == 8:
            raise StopError

    # It ends while step 8 is measured; the last state is that of step 6.
    with pytest.raises(StopError):
        Trainer(Recipe.model_validate(content), tmp_path / "parts", "cpu", stop).run()
    again = Trainer(Recipe.model_validate(content), tmp_path / "parts", "cpu")
    assert again.progress.step == 6
    again.run()
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert set(contents(tmp_path / "whole")) == {
        "recipe.yaml",
        "state.pt",
        "log.jsonl",
        "draft/config.json",
        "draft/model.safetensors",
    }
    assert checkpoint.load(tmp_path / "whole" / "draft").config.gamma == 3


def test_killed_and_resumed_equals_uninterrupted(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(data, steps=30, save_every=5)))

    def command(folder: str) -> list[str]:
        return [sys.executable, "-m", "dspark_tuning.cli", "train", str(file), "--out", folder, "--threads", "1"]

    killed = subprocess.Popen(command("killed"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / state.STATE).exists():
        assert killed.poll() is None
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    reached = torch.load(tmp_path / "killed" / state.STATE, weights_only=True)["step"]
    assert reached < 30
    done = subprocess.run(command("killed"), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"Resuming from step {reached}." in done.stderr
    subprocess.run(command("whole"), cwd=tmp_path, capture_output=True, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("family", DRAFTS)
def test_it_learns(family: str, data: Path, tmp_path: Path) -> None:
    content = recipe(data, family, steps=40, learning_rate=4e-3, evaluate_every=40, anchors=12)
    trainer = Trainer(Recipe.model_validate(content), tmp_path, "cpu")
    frozen = trainer.drafter.lm_head.weight.clone()
    before = trainer.accepted_length()
    after = trainer.run().best
    assert before < 1.4 and after > before + 0.3
    assert torch.equal(frozen, trainer.drafter.lm_head.weight)


def test_held_out_accepted_length_is_what_rounds_accept(data: Path, tmp_path: Path) -> None:
    """The packaged drafter's expected length by texts, beside a plain sum over every block."""
    content = recipe(data, evaluate_texts=3, micro_batch=1, anchors=100, batch=1)
    trainer = Trainer(Recipe.model_validate(content), tmp_path, "cpu")
    total = blocks = 0.0
    for n in range(3):
        batch = trainer.held_out.batch([n])
        size = batch.tokens.shape[1]
        for anchor in range(1, size - 1):
            if not (batch.answer[0, anchor] and batch.answer[0, anchor + 1]):
                continue
            with torch.no_grad():
                forced = trainer.drafter.score(batch, torch.tensor([[anchor]]), torch.tensor([[True]]))
            length, survival = 1.0, 1.0
            for k in range(3):
                if not forced.known[0, k]:
                    break
                p, q = forced.target_logits[0, k].softmax(-1), forced.draft_logits[0, k].softmax(-1)
                survival *= float(torch.minimum(p, q).sum())
                length += survival
            total, blocks = total + length, blocks + 1
    assert trainer.accepted_length() == pytest.approx(total / blocks, rel=1e-5)


def test_training_ends_when_nothing_gets_better(data: Path, tmp_path: Path) -> None:
    content = recipe(data, steps=100, learning_rate=1e-12, evaluate_every=2, patience=2)
    progress = train(tmp_path, content)
    assert progress.ended and progress.step < 100
    # It stays ended.
    assert train(tmp_path, content).step == progress.step


def test_a_step_sees_every_text_once_an_epoch() -> None:
    epochs = [texts.order(10, step, 4, seed=3) for step in range(5)]
    numbers = [n for step in epochs for n in step]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]
    assert sorted(texts.order(3, 7, 6, seed=3)) == [0, 0, 1, 1, 2, 2]


def test_learning_rate() -> None:
    assert [pace(step, 100, 4) for step in (0, 3)] == [0.25, 1.0]
    assert pace(4, 100, 4) == 1.0
    assert pace(52, 100, 4) == pytest.approx(0.5)
    assert pace(99, 100, 4) < 0.001


def test_cached_texts_are_those_looked_at(data: Path, tmp_path: Path) -> None:
    target = Target.load("demo")
    found = passages([data], load_tokenizer("demo"), 48)
    folder = tmp_path / "cache"
    needed = cache.size(found, target, (0, 3))
    with pytest.raises(InputError, match=r"need .* GB and the quota is"):
        cache.write(folder, found, target, "demo", (0, 3), needed - 1)
    assert not folder.exists()
    cache.write(folder, found, target, "demo", (0, 3), needed)
    shards = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert needed <= shards < needed + 1000
    looked = texts.OnTheFlyTexts(found, target, (0, 3)).batch([3, 7])
    cached = texts.CachedTexts(cache.Cache(folder), torch.device("cpu")).batch([3, 7])
    assert torch.equal(looked.tokens, cached.tokens) and torch.equal(looked.answer, cached.answer)
    for row, passage in enumerate((found[3], found[7])):
        size = len(passage.tokens)
        for name in ("features", "last"):
            ours, theirs = getattr(looked, name)[row, :size], getattr(cached, name)[row, :size]
            torch.testing.assert_close(theirs, ours, atol=2e-2, rtol=1e-2)
    content = recipe(data, steps=4)
    content["data"] = {"cache": str(folder), "held_out": [str(data)], "max_length": 48}
    assert train(tmp_path / "trained", content).step == 4
    content["draft"]["target_layer_ids"] = [0, 2]
    with pytest.raises(InputError, match=r"was made for demo, layers \[0, 3\]"):
        train(tmp_path / "other", content)
    with pytest.raises(InputError, match="holds a cache"):
        cache.write(folder, found, target, "demo", (0, 3), needed)
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-00000\.safetensors: has \d+ of \d+ bytes"):
        cache.Cache(folder)


def test_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", 20)
    found = [Passage(np.arange(2, 2 + n), np.arange(n) > 1) for n in (7, 9, 8, 3, 11)]
    target = Target.load("demo")
    cache.write(tmp_path, found, target, "demo", (1,), 10**9)
    written = cache.Cache(tmp_path)
    assert len(written.index.shards) == 2 and len(written) == 5
    for n, passage in enumerate(found):
        assert written.text(n)["tokens"].tolist() == passage.tokens.tolist()
        assert written.text(n)["answer"].tolist() == passage.answer.tolist()
        assert written.text(n)["features"].shape == (len(passage.tokens), 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draft": {"target_layer_ids": [0, 5]}}, r"layers: \[0, 5\] cannot be taken from a target of 6 layers"),
        ({"draft": {"mask_token_id": 1024}}, "mask_token_id: 1024 is outside the vocabulary"),
        ({"target": "/nowhere"}, "target: /nowhere: cannot be loaded"),
        ({"learning_rate": 1e30}, "the loss is"),
        ({"data": {"train": ["/nowhere.jsonl"]}}, r"/nowhere\.jsonl: cannot be read"),
    ],
)
def test_trainings_that_cannot_be(data: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = recipe(data)
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    with pytest.raises(InputError, match=message):
        train(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "give either steps or epochs"),
        ({"micro_batch": 3}, "batch 4 is not a multiple of micro_batch 3"),
        ({"losses": {"place_ratio": 0.8}}, "give cross_entropy, total_variation or distillation a weight"),
        ({"losses": {"cross_entropy": 1.0, "place_ratio": 0.8, "confidence": 1.0}}, None),
        (
            {
                "losses": {"cross_entropy": 1.0, "place_ratio": 0.8, "confidence": 1.0},
                "draft": {"family": "eagle3", "target_layer_ids": [0, 3]},
            },
            "losses.confidence must be 0: eagle3 has no confidence head",
        ),
        ({"rate": 1}, "rate: unknown field"),
        ({"draft": {"family": "medusa"}}, "draft: family: 'medusa' is not known; use one of dspark, dflash, eagle3"),
        (
            {"draft": {"family": "eagle3", "target_layer_ids": [0], "ttt_length": 0}},
            "draft: ttt_length: 0 is not valid",
        ),
        ({"data": {"held_out": ["a"]}}, "give either train"),
    ],
)
def test_recipes_that_cannot_be(data: Path, tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(recipe(data) | change))
    if message is None:
        load(str(file))
        return
    with pytest.raises(InputError, match=message) as error:
        load(str(file))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("", "r.yaml: is empty; write fields"), ("- 3", r"\[3\] is not valid; write")]
)
def test_a_file_without_fields_is_said(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / "r.yaml"))


def test_a_loss_that_is_not_finite_leaves_the_state_before(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(Recipe.model_validate(recipe(data, steps=9)), tmp_path, "cpu")
    step = trainer._step

    def poisoned(n: int) -> dict[str, float]:
        if n == 7:
            with torch.no_grad():
                trainer.drafter.fc.weight.fill_(torch.nan)
        return step(n)

    trainer._step = poisoned  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"step 7: the loss is nan .* lower learning_rate"):
        trainer.run()
    saved = torch.load(tmp_path / state.STATE, weights_only=True)
    assert saved["step"] == 6 and saved["drafter"]["fc.weight"].isfinite().all()
    assert checkpoint.load(tmp_path / state.DRAFT).fc.weight.isfinite().all()


def test_a_full_disk_leaves_the_state_before(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, recipe(data, steps=3))
    before = contents(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = Trainer(Recipe.model_validate(recipe(data, steps=3)), tmp_path, "cpu")
    trainer.progress.step = 2
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free space"):
        trainer.run()
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_another_recipe_and_a_damaged_state_are_refused(data: Path, tmp_path: Path) -> None:
    train(tmp_path, recipe(data, steps=3))
    with pytest.raises(InputError, match="holds a training by another recipe"):
        train(tmp_path, recipe(data, steps=4))
    path = tmp_path / state.STATE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be resumed"):
        train(tmp_path, recipe(data, steps=3))


def test_packaged_recipes_are_deepspecs() -> None:
    assert len(names()) == 16
    for name in names():
        found = load(name)
        if found.target in ("demo", "smollm2/target"):
            # Ours, for a CPU.
            assert found.draft.family in name
            continue
        assert (found.batch, found.epochs, found.learning_rate, found.warmup) == (512, 10, 6e-4, 0.04)
        assert found.data.max_length == 4096 and len(found.draft.target_layer_ids) == 5
        ratio = 0.8 if found.draft.family == "eagle3" else float(np.exp(-1 / 4))
        assert found.losses.place_ratio == pytest.approx(ratio)
    dspark = load("qwen3-14b-dspark").draft.model_dump()
    assert (dspark["block_size"], dspark["layers"], dspark["markov_rank"]) == (7, 5, 256)
    assert dspark["target_layer_ids"] == (1, 10, 19, 28, 37) and dspark["mask_token_id"] == 151669


def test_several_processes_equal_one(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(data, steps=3)))
    arguments = ["-m", "dspark_tuning.cli", "train", str(file), "--device", "cpu", "--threads", "1", "--out"]
    subprocess.run([sys.executable, *arguments, "one"], cwd=tmp_path, check=True, capture_output=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *launcher, *arguments, "two"], cwd=tmp_path, check=True, capture_output=True)
    one, two = (torch.load(tmp_path / name / state.STATE, weights_only=True)["drafter"] for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-4)


def test_demo_is_a_target() -> None:
    assert Target.load("demo").config.vocab_size == Target.load(str(demo.TARGET)).config.vocab_size


@pytest.mark.parametrize("count", ["two", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(InputError, match=f"^WORLD_SIZE: '{count}' is not a number of processes; "):
        Workers("cpu")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert Workers("cpu").count == 1
