"""Takes a changed ``policy.json`` while the server runs: read and checked beside the steps, taken between two."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sglang_dspark.errors import InputError
from sglang_dspark.serving.live import LivePolicy

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2

RETURN_S: Final = 300.0
"""A policy that comes back within this time of being replaced has returned."""

FREE_RETURNS: Final = 2
"""Returns that are taken at once: there and back again is how a change is undone."""

MOST_HOLD_S: Final = 64.0


class Watcher(threading.Thread):
    """Looks at the policy file on rank 0, and does other work that may wait: ``chores`` run once a second.

    Where two writers put back their versions in turn, a returning one waits longer each time, from 1 s on.

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
        self._text = live.in_force.text
        self._replaced_s: dict[bytes, float] = {}
        self._returns_s: list[float] = []
        self._taken_s = -math.inf
        self._held = False
        self._said_s = 0.0

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
        if stamp == self._seen and not asked and not self._held:
            return
        self._asked.clear()
        self._seen = stamp
        try:
            text = self._path.read_bytes()
            if text == self._live.in_force.text and not asked:
                self._held = False
                return  # Touched: no new policy, which would end a fall-back.
            if not asked and self._hold(text):
                return
            self._live.offer(text)
            self._take(text)
        except (InputError, OSError) as error:
            self.refusals += 1
            self._held = False
            logger.error("policy %d stays in force: %s", self._live.in_force.version, error)
        else:
            self.reloads += 1

    def _hold(self, text: bytes) -> bool:
        """Whether a policy that returns once more has to wait."""
        now = time.monotonic()
        self._replaced_s = {old: s for old, s in self._replaced_s.items() if now - s <= RETURN_S}
        self._returns_s = [s for s in self._returns_s if now - s <= RETURN_S]
        beyond = len(self._returns_s) - FREE_RETURNS
        hold_s = min(2.0**beyond, MOST_HOLD_S) if beyond >= 0 and text in self._replaced_s else 0.0
        if not self._returns_s:
            self._said_s = 0.0
        if now - self._taken_s >= hold_s:
            self._held = False
            return False
        if hold_s > self._said_s:
            self._said_s = hold_s
            logger.warning(
                "%s: changes back and forth; a version that returns is held for %g s. Let one writer replace it, or "
                "reload it by hand",
                self._path,
                hold_s,
            )
        self._held = True
        return True

    def _take(self, text: bytes) -> None:
        self._held = False
        self._taken_s = time.monotonic()
        if text in self._replaced_s:
            self._returns_s.append(self._taken_s)
        self._replaced_s[self._text] = self._taken_s
        self._text = text

    def _stamp(self) -> tuple[int, int, int]:
        """Changes with every write or replacement of the file."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_mtime_ns, status.st_size
