"""Acceptance by draft position, measured and modelled."""

from __future__ import annotations

import numpy as np

from dspark_tuning.measuring.calibrate.acceptance_fit import AcceptanceFit
from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.numbers import NONE
from dspark_tuning.reporting.page import Section, figure, paragraph
from dspark_tuning.reporting.plots import drawing, line, styles
from dspark_tuning.reporting.table import Table


def table(fit: AcceptanceFit) -> Table:
    """Conditional acceptance by class and position."""
    rows = [
        [f"{name}, position {k + 1}", f"{judged:,}", f"{measured:.3f}" if judged else NONE, f"{modelled:.3f}"]
        for place, name in enumerate(fit.classes)
        for k, (judged, measured, modelled) in enumerate(
            zip(fit.judged[place], fit.measured[place], fit.modelled[place], strict=True)
        )
    ]
    return Table("Conditional acceptance", ["Class and position", "Drafts judged", "Measured", "Model"], rows)


def section(calibrated: Calibrated) -> Section:
    fit = calibrated.acceptance
    if fit is None:
        return Section("acceptance", "Acceptance", [paragraph("The recording has no accepted lengths.")])
    positions = np.arange(1, fit.measured.shape[1] + 1)
    chart = drawing("Draft position", "Acceptance, given an accepted prefix")
    for place, (name, style) in enumerate(zip(fit.classes, styles(fit.classes), strict=True)):
        line(chart, f"{name}, measured", style, positions, fit.measured[place], mode="markers")
        line(chart, f"{name}, model", style, positions, fit.modelled[place], mode="lines")
    caption = "Share of drafts accepted among those whose prefix was accepted: recorded, and as simulated."
    return Section("acceptance", "Acceptance", [figure("positions", chart, caption, table(fit))])
