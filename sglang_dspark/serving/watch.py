"""Takes a changed ``policy.json`` while the server runs: read and checked beside the steps, taken between two."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sglang_dspark.errors import InputError
from sglang_dspark.serving.live import LivePolicy

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2


class Watcher(threading.Thread):
    """Looks at the policy file on rank 0, and does other work that may wait: ``chores`` run once a second.

    Attributes:
        reloads: Policies taken.
        refusals: Files that could not be; the policy in force stayed.
    """

    def __init__(self, live: LivePolicy) -> None:
        super().__init__(name="dspark-watcher", daemon=True)
        self._live = live
        self._path = Path(live.settings.policy)
        self._seen = self._stamp()
        self._ended = threading.Event()
        self._asked = threading.Event()
        self.chores: list[Callable[[], None]] = []
        self.reloads = 0
        self.refusals = 0

    def ask(self) -> None:
        """Reads the file again even if it has not changed."""
        self._asked.set()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        ticks = 0
        while not self._ended.wait(POLL_S):
            self.look()
            ticks += 1
            if ticks * POLL_S >= 1.0:
                ticks = 0
                for chore in self.chores:
                    self._do(chore)

    def _do(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except Exception:  # Reloads depend on this thread; they must outlive metrics and records.
            logger.exception("a background task of DSpark failed")

    def look(self) -> None:
        """Reads the file if it has changed or was asked for."""
        stamp = self._stamp()
        asked = self._asked.is_set()
        if stamp == self._seen and not asked:
            return
        self._asked.clear()
        self._seen = stamp
        try:
            text = self._path.read_bytes()
            if text == self._live.in_force.text and not asked:
                return  # Touched: no new policy, which would end a fall-back.
            self._live.offer(text)
        except (InputError, OSError) as error:
            self.refusals += 1
            logger.error("policy %d stays in force: %s", self._live.in_force.version, error)
        else:
            self.reloads += 1

    def _stamp(self) -> tuple[int, int, int]:
        """Changes with every write or replacement of the file."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_mtime_ns, status.st_size
