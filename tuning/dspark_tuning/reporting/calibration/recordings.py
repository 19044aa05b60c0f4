"""What the server did while it was recorded."""

from __future__ import annotations

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.page import Section, details
from dspark_tuning.reporting.timelines import timelines


def section(found: Calibrated) -> Section:
    named = zip((told["file"] for told in found.profile.provenance["recordings"]), found.timelines, strict=True)
    parts = [
        details(name, timelines(f"timeline-{place}", [(name, run)]), unfolded=place == 0)
        for place, (name, run) in enumerate(named)
    ]
    return Section("recordings", "The recordings over time", parts)
