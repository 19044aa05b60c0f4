"""Times of steps and prefills: when each ended, and how long after the one before."""

from __future__ import annotations

import math
import time


class StepClock:
    """Counts steps and prefills and measures the time between their ends.

    Attributes:
        steps: Steps and prefills that have ended.
    """

    def __init__(self, returns_results: bool) -> None:
        """
        Args:
            returns_results: A forward that returns has its results, as on the CPU.
        """
        self.steps = 0
        self._returns_results = returns_results
        self._ended_s = self._held_up_s = math.nan

    def returned_s(self) -> float:
        """Now, where a forward that returns has its results; NaN where they arrive later."""
        return time.monotonic() if self._returns_results else math.nan

    def hold_up(self) -> None:
        """Note that the scheduler did other work until now, which is not the time of the step around it."""
        self._held_up_s = time.monotonic()

    def end(self, ended_s: float, after_idle: bool) -> tuple[float, float]:
        """End a step or prefill at ``ended_s``, or now if that is NaN.

        Returns:
            When it ended, and how long after the one before; NaN after idling or other work.
        """
        if math.isnan(ended_s):
            ended_s = time.monotonic()
        held_up = self._ended_s < self._held_up_s <= ended_s
        elapsed_s = math.nan if after_idle or held_up else ended_s - self._ended_s
        self._ended_s = ended_s
        self.steps += 1
        return ended_s, elapsed_s
