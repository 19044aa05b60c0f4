"""Measuring a cell on a real server: the clients' view, and the lengths that the server recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from threading import Event
from typing import NamedTuple

import numpy as np

from dspark_simulator.scenario import Run
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.load.drive import Loaded, drive
from dspark_tuning.measuring.load.result import result
from dspark_tuning.measuring.recording.record import record
from dspark_tuning.measuring.recording.schema import read
from dspark_tuning.measuring.sim2real.predict import SEED, CellFigures
from sglang_dspark.local_server.process import ServerProcess


class Measured(NamedTuple):
    """One run of a cell; ``started_s`` and ``ended_s`` are times of the machine's monotonic clock.

    Attributes:
        accepted_length: Tokens per round as the clients count them, the last round of an output cut to its length.
        verify_length: Drafts per round; NaN where the server does not report it.
    """

    throughput_tok_s: float
    tpot_s: float
    started_s: float
    ended_s: float
    accepted_length: float = 1.0
    verify_length: float = 0.0


def measure(
    server: ServerProcess, workload: Workload, requests: int, texts: dict[str, list[str]]
) -> tuple[Measured, Loaded]:
    """Send requests and wait until all are answered.

    Args:
        server: The server.
        workload: The traffic.
        requests: Number of requests.
        texts: Texts by class, of which prompts are cut.

    Raises:
        RuntimeError: A request failed.
    """
    started_s = time.monotonic()
    run = Run(requests=requests, warmup_requests=0, drain=True)
    loaded = drive(server, workload, run, SEED, texts)
    ended_s = time.monotonic()
    if loaded.failed:
        raise RuntimeError(f"{loaded.failed[0].error}; the end of {server.log}:\n{server.tail()}")
    tokens = sum(request.output_tokens for request in loaded.requests)
    first_s = min(request.sent_s for request in loaded.requests)
    last_s = max(float(request.chunk_s[-1]) for request in loaded.requests)
    tpot_s = fmean(request.tpot_s for request in loaded.requests)
    run_s, seen = last_s - first_s, result(loaded)
    verify_length = seen.verify_length if any(request.rounds for request in loaded.requests) else 0.0
    return Measured(tokens / run_s, tpot_s, started_s, ended_s, seen.accepted_length, verify_length), loaded


@contextmanager
def recording(server: ServerProcess, out: Path) -> Iterator[None]:
    """Record a server's steps while the block lasts."""
    stop = Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            record(server, out, stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def lengths(recorded: Path, spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Compute mean accepted and verify length over all rounds within time spans; 1 and 0 where nothing was drafted."""
    steps = read([recorded]).steps.select(["kind", "ended_s", "verify_length", "accepted_length"]).to_pandas()
    steps = steps[steps["kind"] == "decode"]
    inside = np.zeros(len(steps), np.bool_)
    for start_s, end_s in spans:
        inside |= ((steps["ended_s"] >= start_s) & (steps["ended_s"] <= end_s)).to_numpy()
    within = steps[inside]
    if within.empty:
        return 1.0, 0.0
    accepted, verified = (np.concatenate(within[name].to_list()) for name in ("accepted_length", "verify_length"))
    return float(accepted.mean()), float(verified.mean())


def figures(runs: Sequence[Measured], recorded: Path | None) -> CellFigures:
    """Compute the medians of a cell's runs.

    Args:
        runs: The runs.
        recorded: The server's recording; None where it does not record, whose lengths are those of the clients.
    """
    if recorded is None:
        accepted, verified = median(r.accepted_length for r in runs), median(r.verify_length for r in runs)
    else:
        accepted, verified = lengths(recorded, [(r.started_s, r.ended_s) for r in runs])
    return CellFigures(median(r.throughput_tok_s for r in runs), median(r.tpot_s for r in runs), accepted, verified)
