"""What the figures were made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("sglang-dspark", "optuna", "numpy", "numba", "pandas", "simpy", "plotly")


def versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])
