"""An interrupt at one system call of the file lock around Optuna's journal."""

from __future__ import annotations

import os
import signal
from typing import Literal

import pytest

LOCK = "journal.log.lock"


def interrupt_lock(
    patch: pytest.MonkeyPatch, call: Literal["symlink", "rename", "unlink"], write: int, done: bool = False
) -> None:
    """Interrupt this process at a call that the lock makes once a write, in the given write of the process.

    Args:
        done: Interrupt after the call, not before it.
    """
    system_call, writes = getattr(os, call), 0

    def interrupted(*paths: str) -> None:
        nonlocal writes
        writes += any(LOCK in path for path in paths)
        if writes == write and not done:
            signal.raise_signal(signal.SIGINT)
        system_call(*paths)
        if writes == write and done:
            signal.raise_signal(signal.SIGINT)

    patch.setattr(os, call, interrupted)
