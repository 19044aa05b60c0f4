"""Paths of the published measurements and trace excerpts in ``tests/data``; its README names their sources."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"


def published(name: str) -> Path:
    """Path of a file in ``tests/data``."""
    return DATA / name
