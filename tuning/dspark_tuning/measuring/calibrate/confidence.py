"""The confidence head against what was accepted: temperatures, reliability, and what it tells apart."""

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
    """The head with and without temperatures, by draft position, on rounds that the temperatures were not fitted to.

    Attributes:
        temperatures: float64 [gamma], fitted to all whole rounds (arXiv 2607.05147, section 3.2.1).
        rounds: Whole rounds: every draft was verified, so every prefix is known.
        ece_before, ece_after: float64 [gamma], of survival, with temperatures of one half on the other.
        auc: float64 [gamma], of the head's survival for telling accepted prefixes; NaN where all or none were.
        held: bool [rounds], the half that ``ece_before``, ``ece_after`` and ``auc`` speak of.
        survival: float64 [rounds, gamma], with the temperatures of the other half.
        raw: float64 [rounds, gamma], without.
        survived: bool [rounds, gamma].
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
    """Fits temperatures; None where there are too few whole rounds with confidences."""
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
    """Chance that of two rounds, one that happened and one that did not, the first has the higher score."""
    yes, no = int(happened.sum()), int((~happened).sum())
    if not yes or not no:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[happened].sum() - yes * (yes + 1) / 2) / (yes * no))
