"""The stage of kernel tests and bench, with stand-ins for both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.gpu_check import kernels

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.kernels.test_draft" name="test_one"/>
<testcase classname="tests.kernels.test_draft" name="test_two"><failure message="no"/></testcase>
<testcase classname="tests.kernels.test_draft" name="test_three"><error message="no"/></testcase>
<testcase classname="tests.kernels.test_commands" name="test_four"><skipped message="needs none"/></testcase>
<testcase classname="tests.kernels.test_commands" name="test_five"><skipped message="needs none"/></testcase>
</testsuite></testsuites>"""
ROW = {"operation": "accept", "requests": 64, "of_bound": 1.3, "of_upstream": 0.9, "ours": {}, "goal_missed": True}


@pytest.mark.parametrize(("tests", "bench", "code"), [(0, 2, 0), (1, 2, 1), (0, 1, 1), (124, 2, 1)])
def test_outcomes_are_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tests: int, bench: int, code: int
) -> None:
    def run(stage: Any, name: str, command: list[str], variables: dict[str, str], limit_s: float) -> int:
        assert 0 < limit_s <= 100.0
        if name == "tests":
            (tmp_path / "tests.xml").write_text(JUNIT)
            return tests
        report = {"wins": {"draft": True}, "rows": [ROW, ROW | {"goal_missed": False}], "next": []}
        (tmp_path / "bench.json").write_text(json.dumps(report))
        return bench

    monkeypatch.setattr(kernels, "_run", run)
    assert kernels.main(["--out", str(tmp_path), "--budget-s", "100", "--rehearse"]) == code
    written = json.loads((tmp_path / "kernels.json").read_text())
    cells = {name: cell["result"] for name, cell in written["cells"].items()}
    assert written["device"] == "cpu rehearsal"
    assert cells["tests"] == {
        "exit_code": tests,
        "passed": 1,
        "failed": ["tests.kernels.test_draft.test_two", "tests.kernels.test_draft.test_three"],
        "skipped": {"needs none": 2},
    }
    missed = {key: ROW[key] for key in ("operation", "requests", "of_bound", "of_upstream")}
    assert cells["bench"] == {"exit_code": bench, "wins": {"draft": True}, "goals_missed": [missed], "next": []}


def test_tests_run_in_the_tree_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    # A busy machine needs most of a minute to import what the tests import.
    stage = kernels.Stage("kernels", tmp_path, 1000.0, True)
    assert kernels._tests(stage)["exit_code"] == 0
    assert "100%" in (tmp_path / "tests.log").read_text()
    assert kernels._run(stage, "hangs", ["bash", "-c", "sleep 60 & echo $!; wait"], {}, 1.0) == 124
    child = int((tmp_path / "hangs.log").read_text())
    # Its children end with it: on a GPU they would go on holding memory.
    state = Path(f"/proc/{child}/stat")
    until_s = time.monotonic() + 300.0
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < until_s, "a child runs on"
        time.sleep(0.05)
