"""Every step to Parquet files, without a synchronisation and without a wait: what is too much is counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from sglang_dspark.serving.live import Row
from sglang_dspark.serving.rows import table

logger = logging.getLogger(__name__)

WAITING_STEPS: Final = 4096
FILE_STEPS: Final = 4096
FILE_S: Final = 10.0

CLASSES: Final = b"classes"
"""Metadata of a file: the names that its ``slo_class`` points into, as JSON."""


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

    def __call__(self, row: Row) -> None:
        if not self._open or len(self.waiting) >= WAITING_STEPS:
            self.lost += 1
            return
        # The arrays are the step's own; a pinned host buffer may be used again once its tensor is gone.
        self.waiting.append(row)

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
            pq.write_table(_table(taken), partial)
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


def _table(rows: list[Row]) -> pa.Table:
    classes: list[str] = []
    steps = table(rows, classes)
    return steps.replace_schema_metadata({CLASSES: json.dumps(classes)})
