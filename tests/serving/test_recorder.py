"""Records equal the steps recorded, lost steps are counted, and no failure stops the server."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.special
import torch

from sglang_dspark.policy import Budget, Load
from sglang_dspark.serving import recorder as recording
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.step_schema import STREAM
from sglang_dspark.serving.step_table import table
from sglang_dspark.serving.steps import Ended, EndedPrefill, EndedStep, Mode, Prefill, StepResult

GAMMA = 3
STS = (0.5, 1.5, 3.0)
CLASSES = (("chat", "code", "prose"), ("code", "chat", "prose"), ("agent",))


def random_step(draw: np.random.Generator, number: int = 1) -> Ended:
    n = int(draw.integers(1, 9))
    rids = tuple(f"r{i}" for i in draw.integers(0, 99, n))
    mode = Mode(draw.integers(0, 3))
    elapsed_s = float("nan") if draw.random() < 0.3 else float(draw.random())
    if draw.random() < 0.2:
        waiting, tokens, before = (int(x) for x in draw.integers(1, 999, 3))
        prefill = Prefill(mode, int(draw.integers(1, 9)), waiting, tokens, before, rids, False)
        return EndedPrefill(prefill, float(draw.random()), elapsed_s, number)
    drafted, decided = bool(draw.random() < 0.7), bool(draw.random() < 0.8)
    verified = draw.integers(0, GAMMA + 1, n).astype(np.int32)
    raw = draw.random((n, GAMMA), np.float32)
    classes = CLASSES[draw.integers(0, 3)]
    step = SimpleNamespace(
        in_force=SimpleNamespace(
            version=int(draw.integers(1, 9)),
            artifact=SimpleNamespace(gamma=GAMMA, classes=classes, sts_temperatures=STS),
        ),
        mode=mode,
        gamma=GAMMA,
        load=Load(draw.integers(1, 9999, n), draw.integers(0, len(classes), n), int(draw.integers(0, 50))),
        budget=Budget(int(draw.integers(1, 99)), int(draw.integers(0, 99)), drafted) if decided else None,
        upstream_cap=int(draw.integers(0, 99)) if draw.random() < 0.5 else None,
        steers=mode is Mode.ON and decided,
        tier=int(draw.integers(1, 99)) if draw.random() < 0.5 else None,
        rids=rids,
        drafted=drafted,
        raw=raw,
        # The head gives them with the policy's temperatures, where that is in force.
        confidence=torch.from_numpy(with_temperatures(raw) if mode is Mode.ON else raw) if drafted else None,
    )
    outcome = StepResult(
        verified,
        (verified * draw.random(n)).astype(np.int32),
        with_temperatures(raw) if drafted else None,
        float(draw.random()),
        elapsed_s,
        number,
    )
    return EndedStep(cast(Any, step), outcome)


def with_temperatures(raw: Any) -> Any:
    return scipy.special.expit(scipy.special.logit(raw.astype(float)) / STS).astype(np.float32)


def check(read: dict[str, Any], classes: list[str], row: Ended) -> None:
    """A row that was read is the step that was recorded."""
    read = dict(read)
    names = None if read["slo_class"] is None else [classes[i] for i in read.pop("slo_class")]
    confidence = read.pop("confidence")
    if isinstance(row, EndedPrefill):
        prefill = row.prefill
        expected = {
            "kind": "prefill",
            "mode": prefill.mode.name.lower(),
            "policy_version": prefill.version,
            "requests": len(prefill.rids),
            "queued": prefill.queued,
            "context_tokens": prefill.context_tokens,
            "prefill_tokens": prefill.tokens,
            "rid": list(prefill.rids),
        }
        ended: Any = row
        assert names is None and confidence is None
    else:
        step, outcome = cast(Any, row)
        n, ended = len(step.load.context), outcome
        ours = None if step.budget is None else step.budget.cap
        expected = {
            "kind": "decode",
            "mode": {0: "off", 1: "on", 2: "shadow"}[int(step.mode)],
            "policy_version": step.in_force.version,
            "requests": n,
            "queued": step.load.queued,
            "context_tokens": sum(step.load.context.tolist()),
            "drafted_tokens": n * GAMMA if step.drafted else 0,
            "verify_tokens": n + sum(outcome.verified.tolist()),
            "accepted_tokens": sum(outcome.accepted.tolist()),
            "budget": ours if step.steers else step.upstream_cap,
            "policy_budget": ours,
            "upstream_budget": step.upstream_cap,
            "tier": step.tier,
            "rid": list(step.rids),
            "context": step.load.context.tolist(),
            "verify_length": outcome.verified.tolist(),
            "accepted_length": [1 + a for a in outcome.accepted.tolist()],
        }
        assert names == [step.in_force.artifact.classes[i] for i in step.load.slo_class]
        if not step.drafted:
            assert confidence is None
        else:
            assert np.allclose(confidence, step.raw.reshape(-1), atol=1e-6)
    expected |= {
        "step": ended.number,
        "ended_s": ended.ended_s,
        "step_s": None if ended.elapsed_s != ended.elapsed_s else ended.elapsed_s,
    }
    assert {name: value for name, value in read.items() if value is not None} == {
        name: value for name, value in expected.items() if value is not None
    }


def test_what_is_read_is_what_was_recorded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "FILE_STEPS", 30)
    draw = np.random.default_rng(1)
    steps = [random_step(draw, i) for i in range(75)]
    recorder = Recorder(str(tmp_path / "new" / "folder"))
    for i, step in enumerate(steps):
        recorder(step)
        if i % 7 == 6:
            recorder.write()
    assert recorder.written < 75
    recorder.write(last=True)
    recorder.write(last=True)
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.suffix for file in files] == [".parquet"] * len(files) and len(files) == 3
    tables = [pq.read_table(file) for file in files]
    assert all(table.schema.equals(STREAM) for table in tables)
    rows = [(row, json.loads(table.schema.metadata[b"classes"])) for table in tables for row in table.to_pylist()]
    for (row, classes), step in zip(rows, steps, strict=True):
        check(row, classes, step)
    assert (recorder.written, recorder.lost) == (75, 0)


def test_a_recording_that_is_read_before_its_first_step_is_empty() -> None:
    assert table([], ["chat"]).num_rows == 0


def test_the_interpreter_is_held_for_few_steps_at_a_time(tmp_path: Path, monkeypatch) -> None:
    """Between two conversions the scheduler's thread has its turn, and writing a file needs no interpreter."""
    monkeypatch.setattr(recording, "FILE_S", 1e9)
    held, order = [], []
    convert, write_table, sleep = recording.table, pq.write_table, recording.time.sleep

    def spy(rows: list[Ended], classes: list[str]) -> Any:
        held.append(sum(len(row.prefill.rids if isinstance(row, EndedPrefill) else row.step.rids) for row in rows))
        order.append("convert")
        return convert(rows, classes)

    monkeypatch.setattr(recording, "table", spy)
    monkeypatch.setattr(recording.time, "sleep", lambda s: (order.append("pause"), sleep(0)))
    monkeypatch.setattr(recording.pq, "write_table", lambda *a: (order.append("write"), write_table(*a)))
    draw = np.random.default_rng(5)
    recorder = Recorder(str(tmp_path))
    steps = [random_step(draw, i) for i in range(3000)]
    for step in steps:
        recorder(step)
    recorder.write()
    assert len(held) > 10 and max(held) < recording.SLICE_ROUNDS + 9
    assert order == ["convert", "pause"] * len(held) and not recorder.waiting
    recorder.write(last=True)
    assert order[-1] == "write" and len(list(tmp_path.iterdir())) == 1
    table = pq.read_table(next(tmp_path.iterdir()))
    assert table["step"].to_pylist() == list(range(len(steps)))


def test_a_file_is_written_when_it_is_old_enough(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    recorder = Recorder(str(tmp_path))
    recorder(random_step(np.random.default_rng(0)))
    now[0] = recording.FILE_S - 0.1
    recorder.write()
    assert list(tmp_path.iterdir()) == []
    now[0] = recording.FILE_S
    recorder.write()
    assert len(list(tmp_path.iterdir())) == 1 and not recorder.waiting


def test_what_does_not_fit_the_queue_is_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "WAITING_STEPS", 10)
    step = random_step(np.random.default_rng(2))
    recorder = Recorder(str(tmp_path))
    for _ in range(25):
        recorder(step)
    recorder.write(last=True)
    assert (recorder.written, recorder.lost) == (10, 15)
    recorder(step)
    recorder.write(last=True)
    assert (recorder.written, recorder.lost) == (11, 15)


@pytest.mark.parametrize("when", ["half written", "cannot be renamed", "cannot be removed"])
def test_a_full_disk_ends_recording_and_nothing_else(tmp_path: Path, monkeypatch, caplog, when: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def write_table(table: Any, path: Path) -> None:
        Path(path).write_bytes(b"PAR1")
        if when != "cannot be renamed":
            raise full

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise full

    step = random_step(np.random.default_rng(3))
    recorder = Recorder(str(tmp_path))
    recorder(step)
    recorder.write(last=True)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(recording.pq, "write_table", write_table)
    if when == "cannot be renamed":
        monkeypatch.setattr(Path, "replace", refuse)
    if when == "cannot be removed":
        monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(4):
        recorder(step)
    recorder.write(last=True)
    assert len([record for record in caplog.records if "recording ends" in record.getMessage()]) == 1
    for _ in range(3):
        recorder(step)
        recorder.write(last=True)
    assert (recorder.written, recorder.lost, len(recorder.waiting)) == (1, 7, 0)
    if when != "cannot be removed":
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_a_file_ends_recording(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(str(tmp_path / "file"))
    recorder(random_step(np.random.default_rng(4)))
    recorder.write(last=True)
    assert (recorder.written, recorder.lost) == (0, 1)
