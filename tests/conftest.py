"""Settings that all tests share: one thread a process, interrupts as in a terminal, fresh compiled code, test order."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

# Workers of a run and SGLang's processes fill the cores; threads of PyTorch that wait for a busy core spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
COMPILED = ("sglang_dspark/policy", "simulator")
"""Folders whose functions numba compiles, with the constants that they compile in."""

FILES = ("tests/tuning/test_tune.py", "tests/tuning/test_cli.py", "tests/tuning/test_knee.py")
FIRST = ("overlap", "sync", "kernels", "validate", "plan", *FILES, "ui")
"""Groups and files that take minutes. They start first, so that no worker is left alone with one at the end."""
APART = ROOT / "tests" / "kernels"
"""Folder whose tests are long and share nothing, so that workers divide even those of one file."""


def pytest_configure(config: pytest.Config) -> None:
    """Make this process interruptible, and delete stale compiled functions once a run."""
    # A shell starts its background jobs with interrupts ignored, which children inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        _delete_stale_functions()


def _delete_stale_functions() -> None:
    """Delete numba's cache where a source is newer than it.

    numba compares a cached function with its own file, not with the files of the functions that it calls.
    """
    compiled = list(chain.from_iterable((ROOT / folder).rglob("*.nb[ic]") for folder in COMPILED))
    sources = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in COMPILED)
    if compiled and max(source.stat().st_mtime for source in sources) > min(file.stat().st_mtime for file in compiled):
        for file in compiled:
            file.unlink(missing_ok=True)


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist reads the groups.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, or of a group, on one worker, which makes their shared fixtures once.

    The servers of the live tests are fixtures of a session, each of which lasts until a test needs the next one.
    """
    for item in items:
        if APART not in item.path.parents and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))
    items.sort(key=_order)


def _order(item: pytest.Item) -> tuple[int, str, bool]:
    """Rank of the group; then the server, none first; then tests that need the answers of the plain server."""
    marker = item.get_closest_marker("xdist_group")
    group = marker.args[0] if marker else ""
    server = getattr(item, "callspec", None)
    return (
        FIRST.index(group) if group in FIRST else len(FIRST),
        str(server.params.get("steered", "")) if server and group in FIRST else "",
        group in FIRST and "plain" in getattr(item, "fixturenames", ()),
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write a line for each reason to skip tests, with their number."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped).items():
        terminalreporter.write_line(f"{count} skipped: {reason}")
