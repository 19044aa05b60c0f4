"""How old the confidences are that a budget is computed from, and which of them still belong to the slot's request.

The age counts steps that drafted. A step without a draft brings no confidences and takes none away: after a rest, a
request is judged by its last ones (upstream's ring is written by drafting steps only), and one that has not been seen
to draft is taken as certain (:func:`unseen`), however it came to that.

A *slot* is a row of SGLang's request pool (``req_pool_indices``); its *generation* counts how often it was given out,
so a confidence recorded under another generation is an earlier request's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.rule import survival


@njit(cache=True)
def unseen(survival: NDArray[np.float32]) -> None:
    """Fills in the survivals of requests without a confidence of their own: 1 throughout, as upstream has it.

    Args:
        survival: float32 [gamma] of one request, or [R, gamma].
    """
    survival[:] = np.float32(1.0)


class LagRing:
    """Holds confidences back for ``steps`` calls, slot by slot (``HostConfidenceBudgetPlanner._shift_to_lag``).

    A call touches the rows of its own batch only. A request that sits out a step therefore reads back, later, what its
    slot last held at that place of the ring, which may be older than ``steps`` calls; upstream does the same.
    """

    def __init__(self, steps: int, slots: int, gamma: int) -> None:
        """
        Args:
            steps: Calls of delay, 0 or more; upstream's ``carry_steps``, its lag less the lag of the confidence relay.
            slots: Rows of the request pool, the padding row 0 included.
            gamma: Drafts a block.
        """
        self._confidence = np.zeros((steps, slots, gamma), np.float32)
        self._generation = np.zeros((steps, slots), np.int64)
        self._calls = 0

    def shift(
        self, confidence: NDArray[np.float32], generation: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Stores this step's confidences and returns those stored ``steps`` calls ago.

        Args:
            confidence: float32 [R, gamma].
            generation: int64 [R], each slot's generation when its confidence was recorded.
            slots: int64 [R], distinct.

        Returns:
            Confidence float32 [R, gamma] and generation int64 [R]: the arguments themselves where ``steps`` is 0, and
            zeros in rows that nothing was stored in yet.
        """
        steps = len(self._confidence)
        if steps == 0:
            return confidence, generation
        place = self._calls % steps
        self._calls += 1
        lagged = self._confidence[place, slots], self._generation[place, slots]
        self._confidence[place, slots] = confidence
        self._generation[place, slots] = generation
        return lagged


def fresh_survival(
    confidence: NDArray[np.float32], generation: NDArray[np.int64], current_generation: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Survivals to budget from (``HostConfidenceBudgetPlanner._two_steps_prior_survival``).

    Args:
        confidence: float32 [R, gamma], lagged.
        generation: int64 [R], the slots' generations when ``confidence`` was recorded.
        current_generation: int64 [R], their generations now; 0 for a slot never given out.

    Returns:
        float32 [R, gamma]: 1 throughout for a request without a confidence of its own.
    """
    fresh = (current_generation >= 1) & (generation == current_generation)
    return np.where(fresh[:, None], survival(confidence), np.float32(1))
