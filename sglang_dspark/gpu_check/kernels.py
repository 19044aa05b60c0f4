"""Stage *kernels*: the kernels' tests on this GPU, then their bench against PyTorch and SGLang's own kernels.

``python -m sglang_dspark.gpu_check.kernels --out DIR [--budget-s 300] [--rehearse]`` writes ``DIR/kernels.json``
(tests passed, failed and skipped, with reasons), ``DIR/bench.json`` (``python -m dspark_kernels.bench --out``), the
bench's result file and both logs. A rehearsal runs the tests without launches, and the bench up to its first launch.

Time plan, estimated and not measured on a GPU: the tests compile some hundred kernels, 1 to 3 s each, in as
many processes as there are cores; on 16 that is a minute, and they may take 40 % of the budget. The bench checks and
compiles in as many processes (a minute), times four numbers of requests for its table (some seconds), and then the
others until its budget ends: at 256 requests a round moves about 2 GB, half a millisecond, fifty times for each side.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sglang_dspark.gpu_check import environment
from sglang_dspark.gpu_check.stage import Stage

BUDGET_S: Final = 300.0
TESTS_SHARE: Final = 0.4
TREE: Final = Path(__file__).parents[2]
TESTS: Final = ("tests/kernels",)
# Tests without interpreted kernels: the interpreter of Triton 3.6 does not run under NumPy 2.5.
REHEARSED: Final = ("tests/kernels/test_philox.py", "tests/kernels/test_on_device.py")
# Seconds after the bench's last case, for compiling launch configurations and writing files.
TO_END_S: Final = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; exit code 1 where a test failed or a kernel differs from its reference."""
    stage = Stage.of_command("kernels", __doc__, BUDGET_S, arguments)
    stage.out = stage.out.resolve()  # Commands run in another folder, the tree's root.
    tests = stage.run("tests", lambda: _tests(stage), limit_s=stage.left_s)
    bench = stage.run("bench", lambda: _bench(stage), limit_s=stage.left_s)
    codes = [None if result is None else result["exit_code"] for result in (tests, bench)]
    # Without a GPU the bench exits with 2 before its first launch.
    return int(codes != [0, 2 if stage.rehearses else 0])


def _tests(stage: Stage) -> dict[str, Any]:
    report = stage.out / "tests.xml"
    report.unlink(missing_ok=True)
    tests = REHEARSED if stage.rehearses else TESTS
    workers = [] if stage.rehearses else ["-n", str(min(16, len(os.sched_getaffinity(0))))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, f"--junitxml={report}", *tests]
    variables = {"TRITON_INTERPRET": "1"} if stage.rehearses else environment.gpu(stage.out, stage.out.parent / "cache")
    code = _run(stage, "tests", command, variables, TESTS_SHARE * stage.left_s)
    return {"exit_code": code, **(_outcomes(report) if report.exists() else {})}


def _bench(stage: Stage) -> dict[str, Any]:
    out = stage.out / "bench.json"
    out.unlink(missing_ok=True)
    budget_s = max(stage.left_s - TO_END_S, 1.0)
    command = [sys.executable, "-m", "dspark_kernels.bench", "--out", str(out), "--budget-s", f"{budget_s:.0f}"]
    if stage.rehearses:
        command += ["--vocab", "5000"]
    variables = {"DSPARK_KERNELS_RESULT": str(stage.out / "result.json")}
    if not stage.rehearses:
        # The bench imports SGLang's own kernels from where a server finds them.
        variables |= environment.gpu(stage.out, stage.out.parent / "cache")
    code = _run(stage, "bench", command, variables, max(stage.left_s, 1.0))
    report = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    missed = [
        {key: row[key] for key in ("operation", "requests", "of_bound", "of_upstream")}
        for row in report.get("rows", [])
        if row["goal_missed"]
    ]
    return {"exit_code": code, "wins": report.get("wins"), "goals_missed": missed, "next": report.get("next")}


def _run(stage: Stage, name: str, command: list[str], variables: dict[str, str], limit_s: float) -> int:
    """Run a command with its output in a log; return its exit code, or 124 where it was stopped after ``limit_s``."""
    path = os.pathsep.join([str(TREE), *(one for one in sys.path if one)])
    given = {**os.environ, "PYTHONPATH": path, **variables}
    with (stage.out / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=TREE, env=given, stdout=log, stderr=log, start_new_session=True)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            # Also its child processes, which hold the GPU.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _outcomes(report: Path) -> dict[str, Any]:
    """Summarise a JUnit report: counts, failed tests, and reasons of skipped ones."""
    passed, failed, skipped = 0, list[str](), Counter[str]()
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif (why := case.find("skipped")) is not None:
            skipped[why.get("message", "")] += 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": dict(skipped)}


if __name__ == "__main__":
    sys.exit(main())
