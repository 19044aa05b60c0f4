"""Where the public measurements live; a test that needs one skips where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def published(name: str) -> Path:
    """The path of a published table, or a skip that says which file is missing."""
    return _existing(DATA / "published" / name)


def trace(name: str) -> Path:
    """The path of a public request trace, or a skip that says which file is missing."""
    return _existing(DATA / "traces" / name)


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"public data not present: {path}")
    return path
