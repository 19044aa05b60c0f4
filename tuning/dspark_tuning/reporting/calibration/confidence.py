"""Calibration of the head's confidences: temperatures, ECE, ROC-AUC and reliability."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration
from dspark_tuning.reporting.page import Section, figure, paragraph
from dspark_tuning.reporting.plots import SERIES, drawing, line, reference
from dspark_tuning.reporting.table import Table

BINS = 10


def table(head: ConfidenceCalibration) -> Table:
    """Temperature, ECE and ROC-AUC by draft position."""
    by_position = zip(head.temperatures, head.ece_before, head.ece_after, head.auc, strict=True)
    return Table(
        "By position, on rounds that the temperatures were not fitted to",
        ["Position", "Temperature", "ECE as trained", "ECE with temperatures", "ROC-AUC"],
        [
            [str(k + 1), f"{t:.2f}", f"{before:.3f}", f"{after:.3f}", f"{auc:.2f}"]
            for k, (t, before, after, auc) in enumerate(by_position)
        ],
    )


def section(calibrated: Calibrated) -> Section:
    if calibrated.head is None:
        return Section("confidence", "Confidence", [paragraph("Too few whole rounds with confidences.")])
    return of_head(calibrated.head, "confidence", "Confidence")


def of_head(head: ConfidenceCalibration, key: str, title: str) -> Section:
    """The section of a calibrated head."""
    chart = drawing("Predicted survival", "Survived")
    rows = []
    survivals = {"as trained": head.raw, "with temperatures": head.survival}
    for (name, survival), style in zip(survivals.items(), SERIES, strict=False):
        predicted, survived, counts = _reliability(survival[head.held].ravel(), head.survived[head.held].ravel())
        line(chart, name, style, predicted, survived)
        bins = zip(predicted, survived, counts, strict=True)
        rows += [[f"{name}, {p:.2f}", f"{s:.2f}", f"{n:,}"] for p, s, n in bins]
    reference(chart, "equal", [0, 1], [0, 1])
    caption = (
        "Share of prefixes that survived, by the survival that the head predicts; the thin dotted line is equality."
    )
    same = Table("Reliability", ["Predicted", "Survived", "Prefixes"], rows)
    return Section(key, title, [table(head), figure(f"{key}-reliability", chart, caption, same)])


def _reliability(
    predicted: NDArray[np.float64], survived: NDArray[np.bool_]
) -> tuple[list[float], list[float], list[int]]:
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    frame = pd.DataFrame({"place": place, "predicted": predicted, "survived": survived.astype(float)})
    bins = frame.groupby("place").agg(
        predicted=("predicted", "mean"), survived=("survived", "mean"), count=("survived", "size")
    )
    return bins["predicted"].tolist(), bins["survived"].tolist(), bins["count"].tolist()
