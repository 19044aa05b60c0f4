"""Sequential temperature scaling of the confidence head (arXiv 2607.05147, section 3.2.1).

Binning, grid and order are those of SGLang's ``sglang.benchmark.dspark_sts_fit``, and so are the fitted temperatures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from sglang_dspark.errors import InputError

BINS = 15
GRID = np.logspace(-1.0, 1.0, 41)


def fit(raw_logits: ArrayLike, prefix_accepted: ArrayLike, bins: int = BINS) -> NDArray[np.float64]:
    """Fit temperatures left to right; each minimises over ``GRID`` the ECE of the survival up to its position.

    Args:
        raw_logits: [N, gamma], the head's unscaled logits of N verified blocks.
        prefix_accepted: [N, gamma], whether the target accepted all drafts up to and including this one.
        bins: Equal-width bins of the ECE.

    Returns:
        [gamma] float64; the lowest of equally good temperatures.

    Raises:
        InputError: No blocks, shapes that differ, or logits that are not finite.
    """
    logits = np.asarray(raw_logits, np.float64)
    accepted = np.asarray(prefix_accepted, np.bool_)
    if logits.ndim != 2 or logits.size == 0:
        raise InputError(f"raw_logits: shape {logits.shape}; give one row per block, and at least one block")
    if accepted.shape != logits.shape:
        raise InputError(f"prefix_accepted: shape {accepted.shape}; give the shape of raw_logits, {logits.shape}")
    if not np.isfinite(logits).all():
        raise InputError("raw_logits: holds NaN or an infinity; leave such blocks out")
    temperatures = np.empty(logits.shape[1])
    survival = np.ones(len(logits))
    for position in range(logits.shape[1]):
        candidates = [survival * expit(logits[:, position] / temperature) for temperature in GRID]
        best = int(np.argmin([ece(candidate, accepted[:, position], bins) for candidate in candidates]))
        temperatures[position] = GRID[best]
        survival = candidates[best]
    return temperatures


def ece(survival: ArrayLike, accepted: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: the gap between mean prediction and frequency in a bin, averaged over samples.

    Args:
        survival: [N], predicted probabilities.
        accepted: [N], outcomes (booleans, or probabilities).
        bins: Equal-width bins of [0, 1].

    Returns:
        A fraction in 0..1; NaN without samples.
    """
    predicted = np.asarray(survival, np.float64).ravel()
    happened = np.asarray(accepted, np.float64).ravel()
    if predicted.size == 0:
        return float("nan")
    index = np.clip((predicted * bins).astype(np.int64), 0, bins - 1)
    return float(np.abs(np.bincount(index, predicted - happened, bins)).sum() / predicted.size)
