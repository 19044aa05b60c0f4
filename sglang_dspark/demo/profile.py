"""What a step costs on this machine, read off a running server: the table that SGLang's own budget needs, and ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from sglang_dspark.demo.load import Prompt, ask
from sglang_dspark.demo.server import Server
from sglang_dspark.policy import AnyPolicy, Fixed, NoDraft, SpsAdditiveTable

REQUESTS: Final = (1, 4, 16)
LENGTHS: Final = (0, 3, 7)
STEPS: Final = 14
SKIPPED: Final = 4
DEADLINE_S: Final = 300.0


class Cell(NamedTuple):
    """One measured load.

    Attributes:
        verify_tokens: Anchors included.
        drafted: False where the policy rests the drafter.
        step_s: Median over its steps.
    """

    requests: int
    verify_tokens: int
    drafted: bool
    step_s: float


def measure(server: Server, prompts: list[str], use: Callable[[AnyPolicy], None]) -> list[Cell]:
    """Runs the server at every load of the grid, and without a draft.

    The server records its steps (``SGLANG_DSPARK_ENABLE_SPS_RECORD=1``).

    Args:
        use: Brings a policy into force.
    """
    cells = []
    for requests in REQUESTS:
        stop = threading.Event()
        clients = [threading.Thread(target=_keep_busy, args=(server, prompts[i], stop)) for i in range(requests)]
        for client in clients:
            client.start()
        for length in LENGTHS:
            use(Fixed(length=length))
            cells.append(Cell(requests, requests * (1 + length), True, _steps_s(server, requests)))
        use(NoDraft())
        cells.append(Cell(requests, requests, False, _steps_s(server, requests)))
        stop.set()
        for client in clients:
            client.join()
    return cells


def _keep_busy(server: Server, text: str, stop: threading.Event) -> None:
    while not stop.is_set():
        ask(server, Prompt(text, 64, "default"), ignore_eos=True)


def _steps_s(server: Server, requests: int) -> float:
    server.tell(dspark_clear_info_records=1)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        time.sleep(0.5)
        records = server.state().get("dspark_info_record", {}).get("records", [])
        steps = [
            record["step_cpu_ms"] / 1000
            for record in records
            if record.get("step_cpu_ms") is not None and record["num_running_reqs"] == requests
        ]
        if len(steps) >= STEPS:
            return float(median(steps[SKIPPED:]))
    raise TimeoutError(f"no {STEPS} steps of {requests} requests; the end of {server.log}:\n{server.tail()}")


def fit(cells: list[Cell]) -> SpsAdditiveTable:
    """Least squares of ``overhead + draft + draft_each * R + verify_each * M``, none of them negative.

    ``alpha`` is the draft, so that a step without one costs ``bias + theta``.
    """
    design = np.array([[1.0, c.drafted, c.drafted * c.requests, c.verify_tokens] for c in cells])
    times = np.array([c.step_s for c in cells])
    weight = 1.0 / times
    kept = list(range(design.shape[1]))
    while True:
        found = np.linalg.lstsq(design[:, kept] * weight[:, None], times * weight, rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    overhead, draft, draft_each, verify_each = (
        float(found[kept.index(i)]) if i in kept else 0.0 for i in range(design.shape[1])
    )
    most_requests, most_tokens = max(c.requests for c in cells), max(c.verify_tokens for c in cells)
    return SpsAdditiveTable(
        bias_seconds=max(overhead, 1e-6),
        bs_probes=(1, most_requests),
        alpha_seconds=(draft + draft_each, draft + draft_each * most_requests),
        m_probes=(1, most_tokens),
        theta_seconds=(verify_each, verify_each * most_tokens),
    )


def worst_error(cells: list[Cell], table: SpsAdditiveTable) -> float:
    """Largest relative error of the fit over the cells it was made from."""
    times = table.step_times()

    def step_s(cell: Cell) -> float:
        before_s = times.requests_s[cell.requests] if cell.drafted else table.bias_seconds
        return float(before_s + times.tokens_s[cell.verify_tokens])

    return max(abs(step_s(cell) - cell.step_s) / cell.step_s for cell in cells)
