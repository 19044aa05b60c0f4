"""Package versions and commands that reproduce a report."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version

from dspark_tuning.reporting.page import Part, Section, definitions

PACKAGES = ("sglang-dspark", "optuna", "numpy", "numba", "pandas", "simpy", "plotly")


def provenance(facts: Iterable[tuple[str, str]], *parts: Part) -> Section:
    """The last section of a report: versions, then ``facts`` and ``parts``."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return Section("provenance", "Provenance", [definitions([("Versions", ", ".join(versions)), *facts]), *parts])
