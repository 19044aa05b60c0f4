"""Where the figures come from, and how to get them again."""

from __future__ import annotations

from collections.abc import Sequence

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.page import Row, Section, code, definitions, subheading, table
from dspark_tuning.reporting.versions import versions


def section(found: Calibrated, commands: Sequence[str]) -> Section:
    files = table(
        "Recordings by their content",
        ["File", "SHA-256"],
        [Row(told["file"], [told["sha256"]]) for told in found.profile.provenance["recordings"]],
        words=True,
    )
    again = [subheading("To get these figures again, and to use the profile"), code("\n".join(commands))]
    return Section("provenance", "Provenance", [definitions([("Versions", versions())]), files, *again])
