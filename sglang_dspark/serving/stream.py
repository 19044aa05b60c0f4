"""Steps kept in memory until a reader has them: what ``dspark record`` takes over HTTP from a running server.

The reader says which steps it has, so what got lost on its way is there the next time. Steps are numbered, so what was
dropped here for want of room shows as a gap.
"""

from __future__ import annotations

import base64
import logging
import time
from collections import deque
from typing import Any, Final

import pyarrow as pa

from sglang_dspark.serving.live import LivePolicy, Prefilled, Row
from sglang_dspark.serving.rows import requests_of, table

logger = logging.getLogger(__name__)

MOST_ROUNDS: Final = 400_000
"""Requests of all waiting steps, at up to 200 bytes each."""

FORGOTTEN_S: Final = 120.0
"""A reader that was gone for so long will not come again."""


class Stream:
    """Records while it is open, from the scheduler's thread alone."""

    def __init__(self, live: LivePolicy) -> None:
        self._live = live
        self._rows: deque[Row] = deque()
        self._rounds = 0
        self._asked_s = 0.0
        self._opened: int | None = None
        self._classes: list[str] = []

    def ask(self, wanted: int) -> None:
        """Opens the stream, or takes note of what its reader has.

        Args:
            wanted: The first step that the reader wants, from 1; 0 ends the recording.
        """
        self._asked_s = time.monotonic()
        if not wanted:
            self._close()
            return
        if self._opened is None:
            self._opened = time.monotonic_ns()
            self._live.recorders.append(self)
            return
        while self._rows and _number(self._rows[0]) < wanted:
            self._drop()

    def __call__(self, row: Row) -> None:
        if time.monotonic() - self._asked_s > FORGOTTEN_S:
            logger.warning("nobody has taken the recorded steps for %g s; recording ends", FORGOTTEN_S)
            self._close()
            return
        self._rows.append(row)
        self._rounds += requests_of(row)
        while self._rounds > MOST_ROUNDS:
            self._drop()

    def state(self) -> dict[str, Any] | None:
        """What waits for the reader, as ``/get_server_info`` has it; None while nothing is recorded.

        Returns:
            ``opened`` tells one recording from the next; ``steps`` is a ``rows.SCHEMA`` table as Arrow's stream format
            in base64, ``next`` the number of the step to come, ``classes`` what ``slo_class`` points into.
        """
        if self._opened is None:
            return None
        steps = table(self._rows, self._classes)
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, steps.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(steps)
        self._live.hold_up()
        return {
            "opened": self._opened,
            "next": self._live.steps + 1,
            "classes": list(self._classes),
            "steps": base64.b64encode(buffer.getvalue()).decode(),
        }

    def _drop(self) -> None:
        self._rounds -= requests_of(self._rows.popleft())

    def _close(self) -> None:
        if self._opened is not None:
            self._live.recorders.remove(self)
        self._opened = None
        self._rows.clear()
        self._rounds = 0
        self._classes = []


def _number(row: Row) -> int:
    return row.number if isinstance(row, Prefilled) else row[1].number
