"""How far the profile can be trusted, in one sentence."""

from __future__ import annotations

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.page import Section, lead, paragraph


def section(found: Calibrated) -> Section:
    worst = max(found.cost.errors, key=lambda error: error.median, default=None)
    text = (
        f"{len(found.decoded):,} decode steps were recorded."
        if worst is None
        else f"A step's time is told to within {worst.median:.1%} in the middle and {worst.p90:.1%} for nine of ten "
        f"({worst.part}, the worst part), on steps that the fit did not see."
    )
    warnings = [paragraph(f"Warning. {sentence}") for sentence in found.profile.warnings]
    return Section("answer", "What came out", [lead(text), *warnings])
