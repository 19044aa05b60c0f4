"""Steps kept in memory until a reader has them: ``dspark record`` takes them over HTTP from a running server.

The reader names the first step that it wants, so an answer that was lost is sent again. Steps are numbered, so those
dropped here for lack of room show as a gap.
"""

from __future__ import annotations

import base64
import logging
import time
from collections import deque
from typing import Any, Final

import pyarrow as pa

from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.step_table import table
from sglang_dspark.serving.steps import Ended

logger = logging.getLogger(__name__)

MOST_ROUNDS: Final = 400_000
"""Requests of all waiting steps, at up to 200 bytes each."""

FORGOTTEN_S: Final = 120.0
"""Time without a request after which the recording ends."""


class Stream:
    """Records while it is open, from the scheduler's thread alone."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._ended: deque[Ended] = deque()
        self._rounds = 0
        self._requested_s = 0.0
        self._opened: int | None = None
        self._classes: list[str] = []

    def request(self, first: int) -> None:
        """Open the stream, or drop the steps that its reader has.

        Args:
            first: The first step that the reader wants, from 1; 0 ends the recording.
        """
        self._requested_s = time.monotonic()
        if not first:
            self._close()
            return
        if self._opened is None:
            self._opened = time.monotonic_ns()
            self._live.recorders.append(self)
            return
        while self._ended and self._ended[0].number < first:
            self._drop()

    def __call__(self, ended: Ended) -> None:
        if time.monotonic() - self._requested_s > FORGOTTEN_S:
            logger.warning("no reader has requested recorded steps for %g s; recording ends", FORGOTTEN_S)
            self._close()
            return
        self._ended.append(ended)
        self._rounds += ended.requests
        while self._rounds > MOST_ROUNDS:
            self._drop()

    def state(self) -> dict[str, Any] | None:
        """The steps that wait for the reader, for ``/get_server_info``; None while nothing is recorded.

        Returns:
            ``opened`` identifies the recording; ``steps`` is a ``step_schema.STREAM`` table in Arrow's stream format
            as base64, ``next`` the number of the next step, ``classes`` the names that ``slo_class`` points into.
        """
        if self._opened is None:
            return None
        steps = table(self._ended, self._classes)
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, steps.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(steps)
        self._live.clock.hold_up()
        return {
            "opened": self._opened,
            "next": self._live.clock.steps + 1,
            "classes": list(self._classes),
            "steps": base64.b64encode(buffer.getvalue()).decode(),
        }

    def _drop(self) -> None:
        self._rounds -= self._ended.popleft().requests

    def _close(self) -> None:
        if self._opened is not None:
            self._live.recorders.remove(self)
        self._opened = None
        self._ended.clear()
        self._rounds = 0
        self._classes = []
