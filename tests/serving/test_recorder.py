"""Records: what went in comes back, what did not is counted, and nothing of it stops the server."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sglang_dspark.policy import Budget, Load
from sglang_dspark.serving import recorder as recording
from sglang_dspark.serving.live import Mode, Outcome
from sglang_dspark.serving.recorder import SCHEMA, Recorder

GAMMA = 3


def random_step(draw: np.random.Generator) -> tuple[Any, Outcome]:
    n = int(draw.integers(1, 9))
    drafted, decided = bool(draw.random() < 0.7), bool(draw.random() < 0.8)
    verified = draw.integers(0, GAMMA + 1, n).astype(np.int32)
    step = SimpleNamespace(
        in_force=SimpleNamespace(version=int(draw.integers(1, 9)), artifact=SimpleNamespace(gamma=GAMMA)),
        mode=Mode(draw.integers(0, 3)),
        load=Load(draw.integers(1, 9999, n), draw.integers(0, 3, n), int(draw.integers(0, 50))),
        budget=Budget(int(draw.integers(1, 99)), int(draw.integers(0, 99)), drafted) if decided else None,
        upstream_cap=int(draw.integers(0, 99)) if draw.random() < 0.5 else None,
        drafted=drafted,
    )
    outcome = Outcome(
        verified,
        (verified * draw.random(n)).astype(np.int32),
        draw.random((n, GAMMA), np.float32) if drafted else None,
        float(draw.random()),
        float("nan") if draw.random() < 0.3 else float(draw.random()),
    )
    return step, outcome


def expected(step: Any, outcome: Outcome) -> dict[str, Any]:
    n = len(step.load.context)
    return {
        "ended_s": outcome.ended_s,
        "elapsed_s": None if outcome.elapsed_s != outcome.elapsed_s else outcome.elapsed_s,
        "mode": {0: "off", 1: "on", 2: "shadow"}[int(step.mode)],
        "policy_version": step.in_force.version,
        "requests": n,
        "queued": step.load.queued,
        "context_tokens": sum(step.load.context.tolist()),
        "drafted_tokens": n * GAMMA if step.drafted else 0,
        "verify_tokens": n + sum(outcome.verified.tolist()),
        "accepted_tokens": sum(outcome.accepted.tolist()),
        "cap": step.budget and step.budget.cap,
        "tier": step.budget and step.budget.tier,
        "upstream_cap": step.upstream_cap,
        "context": step.load.context.tolist(),
        "slo_class": step.load.slo_class.tolist(),
        "verify_length": outcome.verified.tolist(),
        "accepted_length": [1 + a for a in outcome.accepted.tolist()],
        "confidence": [] if outcome.confidence is None else [c for row in outcome.confidence.tolist() for c in row],
    }


def test_what_is_read_is_what_was_recorded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "FILE_STEPS", 30)
    draw = np.random.default_rng(1)
    steps = [random_step(draw) for _ in range(75)]
    recorder = Recorder(str(tmp_path / "new" / "folder"))
    for i, step in enumerate(steps):
        recorder(*step)
        if i % 7 == 6:
            recorder.write()
    assert recorder.written < 75
    recorder.write(last=True)
    recorder.write(last=True)
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.suffix for file in files] == [".parquet"] * len(files) and len(files) == 3
    tables = [pq.read_table(file) for file in files]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows == [expected(*step) for step in steps]
    assert (recorder.written, recorder.lost) == (75, 0)


def test_a_file_is_written_when_it_is_old_enough(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    recorder = Recorder(str(tmp_path))
    recorder(*random_step(np.random.default_rng(0)))
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
        recorder(*step)
    recorder.write(last=True)
    assert (recorder.written, recorder.lost) == (10, 15)
    recorder(*step)
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
    recorder(*step)
    recorder.write(last=True)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(recording.pq, "write_table", write_table)
    if when == "cannot be renamed":
        monkeypatch.setattr(Path, "replace", refuse)
    if when == "cannot be removed":
        monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(4):
        recorder(*step)
    recorder.write(last=True)
    assert len([record for record in caplog.records if "recording ends" in record.getMessage()]) == 1
    for _ in range(3):
        recorder(*step)
        recorder.write(last=True)
    assert (recorder.written, recorder.lost, len(recorder.waiting)) == (1, 7, 0)
    if when != "cannot be removed":
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_a_file_ends_recording(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(str(tmp_path / "file"))
    recorder(*random_step(np.random.default_rng(4)))
    recorder.write(last=True)
    assert (recorder.written, recorder.lost) == (0, 1)
