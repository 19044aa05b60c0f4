"""Run the ranks of a group, each in a process, for decisions that all ranks must share."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(start: Callable[[int, str], None], folder: Path, deadline_s: float, count: int = 2) -> list[dict[str, Any]]:
    """Runs the ranks to their end and returns what each wrote to ``rank-NUMBER.json`` in ``folder``.

    Args:
        start: Called with the rank's number and the folder, in its process.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=start, args=(number, str(folder)), daemon=True) for number in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + deadline_s
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, "a rank waits for the other"
    assert [process.exitcode for process in processes] == [0] * count
    return [json.loads((folder / f"rank-{number}.json").read_text()) for number in range(count)]
