"""Record every step to Parquet files without making the scheduler wait; steps that do not fit are counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from sglang_dspark.serving.step_table import table
from sglang_dspark.serving.steps import Ended

logger = logging.getLogger(__name__)

WAITING_STEPS: Final = 4096
FILE_STEPS: Final = 4096
FILE_S: Final = 10.0

SLICE_ROUNDS: Final = 1024
"""Requests of the steps that are converted at once: about a millisecond of the interpreter's time."""

PAUSE_S: Final = 0.005
"""Between two slices; enough for 160,000 rounds a second."""

CLASSES: Final = b"classes"
"""Metadata of a file: the names that its ``slo_class`` points into, as JSON."""


class Recorder:
    """Takes steps from the scheduler and writes them from another thread.

    The other thread shares the interpreter with the scheduler, so it converts few steps at a time and lets go between;
    a file is written from what was converted without the interpreter.

    A file holds up to ``FILE_STEPS`` steps or ``FILE_S`` seconds, is there whole or not at all, and names the process
    and its place in the order. Where a folder cannot be written, recording ends and serving continues.

    Attributes:
        waiting: Steps that are to be converted.
        lost: Steps that were not written.
        written: Steps that were.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.waiting: deque[Ended] = deque()
        self._open = True
        self._files = 0
        self._since_s = time.monotonic()
        self._slices: list[pa.Table] = []
        self._rows = 0
        self._classes: list[str] = []
        # The last call may come from the thread that ends the process.
        self._writing = threading.Lock()
        self.lost = 0
        self.written = 0

    def __call__(self, ended: Ended) -> None:
        if not self._open or len(self.waiting) >= WAITING_STEPS:
            self.lost += 1
            return
        # The arrays are the step's own; a pinned host buffer may be used again once its tensor is gone.
        self.waiting.append(ended)

    def write(self, last: bool = False) -> None:
        """Convert waiting steps, and write a file when there are enough, or at the end when there are any."""
        with self._writing:
            while self._open and self.waiting:
                rounds, taken = 0, []
                while self.waiting and rounds < SLICE_ROUNDS:
                    taken.append(self.waiting.popleft())
                    rounds += taken[-1].requests
                self._slices.append(table(taken, self._classes))
                self._rows += len(taken)
                if self._rows >= FILE_STEPS:
                    self._write_file()
                if not last:
                    time.sleep(PAUSE_S)
            old = time.monotonic() - self._since_s >= FILE_S
            if self._open and self._rows and (old or last):
                self._write_file()

    def _write_file(self) -> None:
        self._since_s = time.monotonic()
        rows, slices, classes = self._rows, self._slices, self._classes
        self._rows, self._slices, self._classes = 0, [], []
        steps = pa.concat_tables(slices).replace_schema_metadata({CLASSES: json.dumps(classes)})
        target = self._folder / f"steps-{os.getpid()}-{self._files:06d}.parquet"
        partial = target.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(steps, partial)
            partial.replace(target)
        except OSError as error:
            self._open = False
            self.lost += rows + len(self.waiting)
            self.waiting.clear()
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            logger.error("%s: recording ends (%s); serving continues", self._folder, error)
            return
        self._files += 1
        self.written += rows
