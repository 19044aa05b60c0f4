"""A thread for work that may wait, such as publishing metrics and writing records."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2


class Background(threading.Thread):
    """Runs ``look`` every ``POLL_S`` and each of ``chores`` once a second."""

    def __init__(self, name: str = "dspark-background") -> None:
        super().__init__(name=name, daemon=True)
        self._ended = threading.Event()
        self.chores: list[Callable[[], None]] = []

    def look(self) -> None:
        """Check for changes; nothing here."""

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
