"""Survivals from confidences that are one or two steps old, and the ring that delays them.

The age counts steps that drafted. A step without a draft brings no confidences and takes none away: after a rest, a
request is judged by its last ones (upstream's ring is written by drafting steps only), and one that has not been seen
to draft is taken as certain (:func:`unseen`).

A *slot* is a row of SGLang's request pool (``req_pool_indices``); its *generation* counts how often it was given out,
so a confidence recorded under another generation is an earlier request's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit


@njit(cache=True)
def unseen(survival: NDArray[np.float32]) -> None:
    """Set the survivals of requests without a confidence of their own to 1, as upstream does.

    Args:
        survival: float32 [gamma] of one request, or [R, gamma].
    """
    survival[:] = np.float32(1.0)


@njit(cache=True)
def fresh_survival(
    confidence: NDArray[np.float32],
    generation: NDArray[np.int64],
    rows: NDArray[np.int64],
    current_generation: NDArray[np.int64],
    out: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Survivals to budget from (``HostConfidenceBudgetPlanner._two_steps_prior_survival``).

    Args:
        confidence: float32 [N, gamma], lagged.
        generation: int64 [N], each row's slot generation when its confidence was recorded.
        rows: int64 [R], the row of each request.
        current_generation: int64 [R], the generations of the requests' slots now; 0 for a slot never given out.
        out: float32 [R at least, gamma], written.

    Returns:
        float32 [R, gamma], the first rows of ``out``: 1 throughout for a request without a confidence of its own.
    """
    requests, gamma = rows.shape[0], confidence.shape[1]
    for r in range(requests):
        row = rows[r]
        if current_generation[r] >= 1 and generation[row] == current_generation[r]:
            product = 1.0
            for j in range(gamma):
                product *= confidence[row, j]
                out[r, j] = product
        else:
            unseen(out[r])
    return out[:requests]


@njit(cache=True)
def carry(
    ring_confidence: NDArray[np.float32],
    ring_generation: NDArray[np.int64],
    rows: NDArray[np.int64],
    confidence: NDArray[np.float32],
    generation: NDArray[np.int64],
) -> None:
    """Store a step's confidences in one place of upstream's lag ring (``_shift_to_lag``).

    A step touches the rows of its own batch only. A request that sits out a step therefore reads back, later, what its
    slot last held at that place of the ring, which may be older than the lag; upstream does the same.

    Args:
        ring_confidence: float32 [slots, gamma].
        ring_generation: int64 [slots].
        rows: int64 [R], distinct.
        confidence: float32 [R, gamma].
        generation: int64 [R].
    """
    for r in range(rows.shape[0]):
        ring_confidence[rows[r]] = confidence[r]
        ring_generation[rows[r]] = generation[r]
