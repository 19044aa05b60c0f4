"""Take a changed ``policy.json`` while the server runs: read and checked in a thread, activated between two steps."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path
from typing import Final

from sglang_dspark.errors import InputError
from sglang_dspark.serving.background import Background
from sglang_dspark.serving.live_policy import LivePolicy

logger = logging.getLogger(__name__)

RETURN_S: Final = 300.0
"""A policy that comes back within this time of being replaced has returned."""

FREE_RETURNS: Final = 2
"""Returns that are taken at once: there and back again is how a change is undone."""

MOST_HOLD_S: Final = 64.0


class Watcher(Background):
    """Watches the policy file on rank 0.

    Where two writers restore their versions in turn, a returning one waits longer each time, from 1 s on.

    Attributes:
        reloads: Policies taken.
        refusals: Files that could not be; the policy in force stayed.
    """

    def __init__(self, policy: LivePolicy) -> None:
        super().__init__("dspark-watcher")
        self._policy = policy
        self._path = Path(policy.settings.policy)
        self._seen = self._stamp()
        self._reload = threading.Event()
        self.reloads = 0
        self.refusals = 0
        self._text = policy.in_force.text
        self._replaced_s: dict[bytes, float] = {}
        self._returns_s: list[float] = []
        self._taken_s = -math.inf
        self._held = False
        self._warned_s = 0.0

    def reload(self) -> None:
        """Read the file again even if it has not changed."""
        self._reload.set()

    def look(self) -> None:
        """Read the file if it has changed or a reload was requested."""
        stamp = self._stamp()
        reload = self._reload.is_set()
        if stamp == self._seen and not reload and not self._held:
            return
        self._reload.clear()
        self._seen = stamp
        try:
            text = self._path.read_bytes()
            if text == self._policy.in_force.text and not reload:
                self._held = False
                return  # Touched: no new policy, which would end a fall-back.
            if not reload and self._hold(text):
                return
            self._policy.offer(text)
            self._take(text)
        except (InputError, OSError) as error:
            self.refusals += 1
            self._held = False
            logger.error("policy %d stays in force: %s", self._policy.in_force.version, error)
        else:
            self.reloads += 1

    def _hold(self, text: bytes) -> bool:
        """Whether a policy that returns has to wait."""
        now = time.monotonic()
        self._replaced_s = {old: s for old, s in self._replaced_s.items() if now - s <= RETURN_S}
        self._returns_s = [s for s in self._returns_s if now - s <= RETURN_S]
        beyond = len(self._returns_s) - FREE_RETURNS
        hold_s = min(2.0**beyond, MOST_HOLD_S) if beyond >= 0 and text in self._replaced_s else 0.0
        if not self._returns_s:
            self._warned_s = 0.0
        if now - self._taken_s >= hold_s:
            self._held = False
            return False
        if hold_s > self._warned_s:
            self._warned_s = hold_s
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
