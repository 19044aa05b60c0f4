"""Every decode step to Parquet files, without a synchronisation and without a wait: what is too much is counted."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sglang_dspark.serving.live import Outcome, Step

logger = logging.getLogger(__name__)

WAITING_STEPS: Final = 4096
FILE_STEPS: Final = 4096
FILE_S: Final = 10.0

SCHEMA: Final = pa.schema(
    [
        ("ended_s", pa.float64()),
        ("elapsed_s", pa.float64()),
        ("mode", pa.string()),
        ("policy_version", pa.int32()),
        ("requests", pa.int32()),
        ("queued", pa.int32()),
        ("context_tokens", pa.int64()),
        ("drafted_tokens", pa.int32()),
        ("verify_tokens", pa.int32()),
        ("accepted_tokens", pa.int32()),
        ("cap", pa.int32()),
        ("tier", pa.int32()),
        ("upstream_cap", pa.int32()),
        ("context", pa.list_(pa.int64())),
        ("slo_class", pa.list_(pa.int64())),
        ("verify_length", pa.list_(pa.int32())),
        ("accepted_length", pa.list_(pa.int32())),
        ("confidence", pa.list_(pa.float32())),
    ]
)
"""One row a step. ``verify_tokens`` counts anchors, ``verify_length`` does not; ``accepted_length`` is tokens of the
round, the target's own included; ``confidence`` is R * gamma values, a request's block together, empty without a draft;
``elapsed_s`` is since the step before, null where a prefill ran between them."""


class Row(NamedTuple):
    step: Step
    outcome: Outcome


class Recorder:
    """Takes steps from the scheduler and writes them from another thread.

    A file holds up to ``FILE_STEPS`` steps or ``FILE_S`` seconds, is there whole or not at all, and names the process
    and its place in the order. Where a folder cannot be written, recording ends and serving goes on.

    Attributes:
        waiting: Steps that are to be written.
        lost: Steps that were not written.
        written: Steps that were.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.waiting: deque[Row] = deque()
        self._open = True
        self._files = 0
        self._since_s = time.monotonic()
        self.lost = 0
        self.written = 0

    def __call__(self, step: Step, outcome: Outcome) -> None:
        if not self._open or len(self.waiting) >= WAITING_STEPS:
            self.lost += 1
            return
        # The arrays are the step's own; a pinned host buffer may be used again once its tensor is gone.
        self.waiting.append(Row(step, outcome))

    def write(self, last: bool = False) -> None:
        """Writes a file where there is enough for one, or anything at all at the end."""
        rows = len(self.waiting)
        old = time.monotonic() - self._since_s >= FILE_S
        if not self._open or not rows or not (rows >= FILE_STEPS or old or last):
            return
        self._since_s = time.monotonic()
        taken = [self.waiting.popleft() for _ in range(rows)]
        target = self._folder / f"steps-{os.getpid()}-{self._files:06d}.parquet"
        partial = target.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(taken), partial)
            partial.replace(target)
        except OSError as error:
            self._open = False
            self.lost += rows + len(self.waiting)
            self.waiting.clear()
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            logger.error("%s: recording ends (%s); serving goes on", self._folder, error)
            return
        self._files += 1
        self.written += rows


def table(rows: list[Row]) -> pa.Table:
    """Steps as the table that is written."""
    return pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in _columns(rows).items()})


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for step, outcome in rows:
        budget, load, confidence = step.budget, step.load, outcome.confidence
        requests = len(load.context)
        row = {
            "ended_s": outcome.ended_s,
            "elapsed_s": None if np.isnan(outcome.elapsed_s) else outcome.elapsed_s,
            "mode": step.mode.name.lower(),
            "policy_version": step.in_force.version,
            "requests": requests,
            "queued": load.queued,
            "context_tokens": int(load.context.sum()),
            "drafted_tokens": step.in_force.artifact.gamma * requests if step.drafted else 0,
            "verify_tokens": int(outcome.verified.sum()) + requests,
            "accepted_tokens": int(outcome.accepted.sum()),
            "cap": None if budget is None else budget.cap,
            "tier": None if budget is None else budget.tier,
            "upstream_cap": step.upstream_cap,
            "context": load.context,
            "slo_class": load.slo_class,
            "verify_length": outcome.verified,
            "accepted_length": outcome.accepted + 1,
            "confidence": () if confidence is None else confidence.reshape(-1),
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns
