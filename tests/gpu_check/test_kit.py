"""The GPU kit: its contents, its refusals, and the isolation of its stages."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.gpu_check import kit

# Stands for an interpreter: unpacks nothing, and stages fail, hang or write a file by their names.
PYTHON = """#!/usr/bin/env bash
[ "$2" = zipfile ] && { mkdir -p site.new; exit; }
echo "$@ from $PYTHONPATH" >> calls
out=$4
mkdir -p "$out"
echo found > "$out/found.json"
case $2 in *.cost) exit 3;; *.engine) sleep 60;; esac
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A kit whose wheels are one small file."""

    def download(to: Path) -> None:
        with zipfile.ZipFile(to / "sglang-0.5.23-py3-none-any.whl", "w") as wheel:
            wheel.writestr("sglang/srt/server.py", "pass")
            wheel.writestr("sglang/srt/rust_extensions/torch_build.py", "pass")
            wheel.writestr("sglang/srt/rust_extensions/_server.so", os.urandom(100_000))
            wheel.writestr("sglang/multimodal_gen/runtime/deep/file.py", "pass")

    monkeypatch.setattr(kit, "_download", download)
    return tmp_path / "deep" / "kit"


def test_packages_that_the_machine_has_are_not_brought() -> None:
    pins = "# made by\nnumpy==2.3.5\npydantic==2.14.3\npydantic-core==2.50.4\nsglang==0.5.23\n"
    assert kit.missing(pins, "# has\nnumpy==2.5.2\npydantic\n") == ["pydantic-core==2.50.4", "sglang==0.5.23"]


def test_every_package_of_a_server_is_on_the_machine_or_brought() -> None:
    pins, machine = ((kit.ROOT / "requirements" / name).read_text("utf-8") for name in ("cpu.txt", "gpu_machine.txt"))
    brought = kit.missing(pins, machine)
    assert "sglang==0.5.23" in brought and not any(line.startswith(("torch==", "triton==")) for line in brought)
    assert {"torch==2.11.0", "triton==3.6.0", "transformers==5.17.0"} <= set(machine.splitlines())


def test_it_holds_what_runs_and_not_what_does_not(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.main(["--out", str(small)]) == 0
    with zipfile.ZipFile(next((small / "wheels").iterdir())) as wheel:
        assert wheel.namelist() == ["sglang/srt/server.py", "sglang/srt/rust_extensions/torch_build.py"]
    for name in (
        "kernels/dspark_kernels/bench/command.py",
        "tests/kernels/conftest.py",
        "sglang_dspark/demo/draft/config.json",
    ):
        assert (small / "tree" / name).read_bytes() == (kit.ROOT / name).read_bytes()
    assert not (small / "tree" / "docs").exists()
    assert "in total, of 60" in capsys.readouterr().out


def test_one_too_large_is_refused_and_leaves_the_old_one(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.mkdir(parents=True)
    (small / "old").touch()
    assert kit.main(["--out", str(small), "--limit-mb", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("limit_mb: the kit has ") and error.count("\n") == 1
    assert (small / "old").exists() and not (small / "tree").exists()


def test_an_import_that_fails_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.main(["--out", str(small)])
    monkeypatch.setattr(kit, "IMPORTS", ("dspark_kernels.bench", "sglang.srt.absent"))
    with pytest.raises(InputError, match=r"^sglang.srt.absent: does not import under .*ModuleNotFoundError"):
        kit.check(small, sys.executable)


def run(small: Path, *stages: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    python = small / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    given = {**os.environ, "PYTHON": str(python), **variables}
    return subprocess.run([small / "run.sh", *stages], capture_output=True, text=True, env=given, check=False)


def test_a_stage_that_fails_or_hangs_does_not_stop_the_next(small: Path) -> None:
    kit.main(["--out", str(small)])
    ended = run(small, "engine", "cost", "kernels", LIMIT_S="2")
    assert ended.returncode == 1
    codes = [line.split(";")[0] for line in ended.stdout.splitlines()]
    assert codes == ["engine: exit code 124", "cost: exit code 3", "kernels: exit code 0"]
    for stage in kit.STAGES:
        with tarfile.open(small / "results" / f"{stage}.tar.gz") as archive:
            assert f"{stage}/found.json" in archive.getnames()
        assert (small / "results" / f"{stage}.log").exists()


def test_its_script_says_what_it_takes_and_runs_all(small: Path) -> None:
    kit.main(["--out", str(small)])
    asked = run(small)
    assert asked.returncode == 2 and "run.sh STAGE...: kernels, cost, engine, or all" in asked.stdout
    run(small, "all", LIMIT_S="1", REHEARSE="1", OUT=str(small / "elsewhere"))
    calls = (small / "calls").read_text().splitlines()
    assert [line.split(" from ")[0] for line in calls] == [
        f"-m sglang_dspark.gpu_check.{stage} --out work/{stage} --budget-s 0 --rehearse" for stage in kit.STAGES
    ]
    roots = calls[0].split(" from ")[1].split(":")
    assert roots == [str(small / part) for part in ("tree", "tree/kernels", "tree/simulator", "tree/tuning", "site")]
    assert len(list((small / "elsewhere").iterdir())) == 6
