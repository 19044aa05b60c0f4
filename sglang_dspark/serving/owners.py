"""Owners of the confidences in SGLang's relay.

The relay (``overlap_utils.ConfidenceRelay``) copies its buffer of all slots at every step that drafts, and notes the
generations of all slots at that time. So a slot's row counts as its present request's from the moment the slot is given
out. Until that request has drafted (its prompt takes several chunks, or the drafter rests) the row is an earlier
request's, or uninitialised memory. The generation that wrote each row is noted here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Owners:
    """The generation of the request that drafted last in each slot, at each of the relay's last publications."""

    def __init__(self, slots: int, depth: int) -> None:
        """
        Args:
            slots: Rows of the request pool.
            depth: Publications that are remembered.
        """
        self._last = np.zeros(slots, np.int64)
        self._held = np.zeros((depth, slots), np.int64)
        self._publications = 0

    def publish(self, slots: NDArray[np.int64], generation: NDArray[np.int64]) -> None:
        """Note a step that drafted: its requests' slots, int64 [R], and their generations, int64 [R]."""
        self._last[slots] = generation
        self._held[self._publications % len(self._held)] = self._last
        self._publications += 1

    def own(self, slots: NDArray[np.int64], generation: NDArray[np.int64], publications_ago: int) -> NDArray[np.int64]:
        """Generations of confidences that are their request's own.

        Args:
            slots: int64 [R].
            generation: int64 [R], by the relay.
            publications_ago: Which publication they are from; 1 is the last.

        Returns:
            int64 [R]: ``generation``, and 0 where another request or none wrote the row.
        """
        if self._publications < publications_ago:
            return np.zeros_like(generation)
        held = self._held[(self._publications - publications_ago) % len(self._held), slots]
        return np.where(held == generation, generation, 0)
