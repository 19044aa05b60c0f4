"""Calibration of the confidence head: temperatures, expected calibration error and ROC-AUC."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from dspark_simulator import sts
from dspark_tuning.measuring.calibrate.rounds import Rounds

Floats = NDArray[np.float64]

LEAST_ROUNDS = 200


class ConfidenceCalibration(NamedTuple):
    """Calibration of the head by draft position, evaluated on rounds that the temperatures were not fitted to.

    Attributes:
        temperatures: float64 [gamma], fitted to all whole rounds (arXiv 2607.05147, section 3.2.1).
        rounds: Number of whole rounds, in which every draft was verified.
        ece_before, ece_after: float64 [gamma], ECE of survival on the held-out half, with temperatures of the other.
        auc: float64 [gamma], ROC-AUC of survival for accepted prefixes on the held-out half; NaN if all or none were
            accepted.
        held: bool [rounds], the held-out half.
        survival: float64 [rounds, gamma], with the temperatures of the other half.
        raw: float64 [rounds, gamma], survival without temperatures.
        survived: bool [rounds, gamma], whether the prefix was accepted.
    """

    temperatures: Floats
    rounds: int
    ece_before: Floats
    ece_after: Floats
    auc: Floats
    held: NDArray[np.bool_]
    survival: Floats
    raw: Floats
    survived: NDArray[np.bool_]


def calibrate(rounds: Rounds) -> ConfidenceCalibration | None:
    """Fit temperatures; None with too few whole rounds with confidences."""
    gamma = rounds.logits.shape[1]
    whole = rounds.take((rounds.verified == gamma) & np.isfinite(rounds.logits).all(1))
    n = len(whole.verified)
    if n < LEAST_ROUNDS:
        return None
    half = (np.arange(n) // (LEAST_ROUNDS // 4)) % 2 == 0
    fitted = sts.fit(whole.logits[half], whole.survived[half])
    raw = np.cumprod(expit(whole.logits), axis=1, dtype=np.float64)
    survival = np.cumprod(expit(whole.logits / fitted), axis=1, dtype=np.float64)
    held = ~half
    return ConfidenceCalibration(
        sts.fit(whole.logits, whole.survived),
        n,
        np.array([sts.ece(raw[held, k], whole.survived[held, k]) for k in range(gamma)]),
        np.array([sts.ece(survival[held, k], whole.survived[held, k]) for k in range(gamma)]),
        np.array([auc(survival[held, k], whole.survived[held, k]) for k in range(gamma)]),
        held,
        survival,
        raw,
        whole.survived,
    )


def auc(score: Floats, happened: NDArray[np.bool_]) -> float:
    """ROC-AUC: probability that a positive round has a higher score than a negative one; NaN without either."""
    yes, no = int(happened.sum()), int((~happened).sum())
    if not yes or not no:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[happened].sum() - yes * (yes + 1) / 2) / (yes * no))
