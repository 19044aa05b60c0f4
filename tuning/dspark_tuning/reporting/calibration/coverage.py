"""Which loads the recording speaks of."""

from __future__ import annotations

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.coverage import LEAST_STEPS
from dspark_tuning.reporting.page import Row, Section, Strong, table


def section(found: Calibrated) -> Section:
    rows = [
        Row(
            f"{cell.requests} requests",
            [
                f"{cell.length} drafts verified" if cell.drafted else "no draft",
                str(cell.steps),
                "yes" if cell.steps >= LEAST_STEPS else Strong("no"),
            ],
        )
        for cell in found.coverage.grid
    ]
    return Section(
        "coverage",
        "Coverage",
        [table("Steps near each load", ["Load", "Verified", "Steps", "Covered"], rows, words=True)],
    )
