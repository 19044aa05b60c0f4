"""How often drafts are accepted, and how well the model draws it."""

from __future__ import annotations

import numpy as np

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.page import Row, Section, figure, paragraph, table
from dspark_tuning.reporting.plots import drawing, line, styles


def section(found: Calibrated) -> Section:
    fit = found.acceptance
    if fit is None:
        return Section("acceptance", "Acceptance", [paragraph("The recording has no accepted lengths.")])
    positions = np.arange(1, fit.measured.shape[1] + 1)
    chart = drawing("Draft position", "Accepted, given the prefix was")
    for place, (name, style) in enumerate(zip(fit.classes, styles(fit.classes), strict=True)):
        line(chart, f"{name}, measured", style, positions, fit.measured[place], mode="markers")
        line(chart, f"{name}, model", style, positions, fit.modelled[place], mode="lines")
    rows = [
        Row(
            f"{name}, position {k + 1}",
            [f"{fit.judged[place, k]:,}", f"{fit.measured[place, k]:.3f}", f"{fit.modelled[place, k]:.3f}"],
        )
        for place, name in enumerate(fit.classes)
        for k in range(len(positions))
    ]
    same = table("Conditional acceptance", ["Class and position", "Drafts judged", "Measured", "Model"], rows)
    return Section(
        "acceptance",
        "Acceptance",
        [
            figure(
                "positions",
                chart,
                "Share of the drafts that the target accepted of those whose prefix it accepted: recorded, and as the "
                "simulator draws it.",
                same,
            )
        ],
    )
