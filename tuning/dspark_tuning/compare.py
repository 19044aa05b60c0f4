"""Paired comparison of arms on the same requests and truths."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_tuning.evaluate import log_score

CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A geometric mean ratio over paired replications and its 95 % interval."""

    ratio: float
    low: float
    high: float
    replications: int


def ratio(logs: NDArray[np.float64]) -> Ratio:
    """Of the logarithms of paired ratios, one a replication: their t interval, back on the scale of ratios."""
    n = len(logs)
    centre = float(logs.mean())
    if n < 2:
        return Ratio(math.exp(centre), math.nan, math.nan, n)
    margin = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Ratio(math.exp(centre), math.exp(centre - margin), math.exp(centre + margin), n)


def paired(scores: pd.DataFrame, arm: str, base: str) -> NDArray[np.float64]:
    """Log ratio of ``arm`` over ``base`` by seed, averaged over loads: one number a replication.

    Args:
        scores: Columns arm, load, seed, score, the score a logarithm.
    """
    table = scores.groupby(["arm", "seed"])["score"].mean()
    logs: NDArray[np.float64] = (table[arm] - table[base]).to_numpy()
    return logs


def gain(rows: pd.DataFrame, arm: str, base: str, metric: str) -> Ratio:
    """``arm`` over ``base`` in an objective of :func:`log_score`, over all loads and seeds of ``rows``."""
    two = rows[rows["arm"].isin([arm, base])]
    scores = two[["arm", "load", "seed"]].assign(score=log_score(two, metric))
    return ratio(paired(scores, arm, base))


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5).

    Within 1e-3 from 5 degrees of freedom on; NaN for fewer, since an interval from so few replications says nothing.
    """
    if freedom < 5:
        return math.nan
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4
