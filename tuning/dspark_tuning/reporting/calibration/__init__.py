"""A calibration as one HTML file that needs no network: what came out, how far off it is, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.calibration import (
    acceptance,
    answer,
    asked,
    confidence,
    coverage,
    provenance,
    recordings,
    steps,
)
from dspark_tuning.reporting.page import document

__all__ = ["render"]

PARTS = (asked, answer, steps, acceptance, confidence, coverage, recordings)
NOTE = "Measured on the recorded server; nothing on this page speaks of other hardware."


def render(found: Calibrated, commands: Sequence[str]) -> str:
    """The report of a calibration.

    Args:
        commands: That made it and that use it.
    """
    sections = [*(part.section(found) for part in PARTS), provenance.section(found, commands)]
    return document(f"Calibration of {found.profile.model}", NOTE, sections)
