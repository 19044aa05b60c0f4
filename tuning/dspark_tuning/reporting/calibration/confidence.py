"""Whether the head's confidences can be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration
from dspark_tuning.reporting.page import Row, Section, figure, paragraph, table
from dspark_tuning.reporting.plots import SERIES, drawing, line, reference

BINS = 10


def section(found: Calibrated) -> Section:
    if found.head is None:
        return Section("confidence", "Confidence", [paragraph("Too few whole rounds with confidences.")])
    return of_head(found.head, "confidence", "Confidence")


def of_head(head: ConfidenceCalibration, key: str, title: str) -> Section:
    """The section of any calibrated head."""
    chart = drawing("Survival that the head says", "Survived")
    rows = []
    survivals = {"as trained": head.raw, "with temperatures": head.survival}
    for (name, survival), style in zip(survivals.items(), SERIES, strict=False):
        said, happened, count = _reliability(survival[head.held].ravel(), head.survived[head.held].ravel())
        line(chart, name, style, said, happened)
        rows += [Row(f"{name}, {s:.2f}", [f"{h:.2f}", f"{n:,}"]) for s, h, n in zip(said, happened, count, strict=True)]
    reference(chart, "equal", [0, 1], [0, 1])
    by_position = table(
        "By position, on rounds that the temperatures were not fitted to",
        ["Position", "Temperature", "ECE as trained", "ECE with temperatures", "ROC-AUC"],
        [
            Row(str(k + 1), [f"{t:.2f}", f"{before:.3f}", f"{after:.3f}", f"{auc:.2f}"])
            for k, (t, before, after, auc) in enumerate(
                zip(head.temperatures, head.ece_before, head.ece_after, head.auc, strict=True)
            )
        ],
    )
    same = table("Reliability", ["Said", "Survived", "Prefixes"], rows)
    return Section(
        key,
        title,
        [
            by_position,
            figure(
                f"{key}-reliability",
                chart,
                "Share of the prefixes that survived, by the survival that the head gave them; on the thin dotted "
                "line the two are equal.",
                same,
            ),
        ],
    )


def _reliability(said: NDArray[np.float64], happened: NDArray[np.bool_]) -> tuple[list[float], list[float], list[int]]:
    place = np.minimum((said * BINS).astype(int), BINS - 1)
    frame = pd.DataFrame({"place": place, "said": said, "happened": happened.astype(float)})
    bins = frame.groupby("place").agg(said=("said", "mean"), happened=("happened", "mean"), count=("said", "size"))
    return bins["said"].tolist(), bins["happened"].tolist(), bins["count"].tolist()
