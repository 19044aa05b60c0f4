"""Keeps compiled code honest: numba's cache knows the file of a function, not the files of the functions it calls."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sglang_dspark", "simulator", "tuning")


def pytest_configure(config: pytest.Config) -> None:
    """Removes all compiled functions once where any source is newer than the oldest of them."""
    if hasattr(config, "workerinput"):
        return
    compiled = list(chain.from_iterable((ROOT / package).rglob("*.nb[ic]") for package in PACKAGES))
    sources = chain.from_iterable((ROOT / package).rglob("*.py") for package in PACKAGES)
    if compiled and max(source.stat().st_mtime for source in sources) > min(file.stat().st_mtime for file in compiled):
        for file in compiled:
            file.unlink(missing_ok=True)
