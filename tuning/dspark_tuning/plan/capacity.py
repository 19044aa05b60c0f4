"""The fewest replicas that meet the service levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dspark_tuning.plan.attainment import Attained
from dspark_tuning.plan.question import Question

MOST: Final = 1024


def fewest(question: Question, attain: Callable[[int], Attained], guess: int = 1, most: int = MOST) -> Attained | None:
    """Gallops from ``guess`` and bisects; what fewer replicas attain never exceeds what more do.

    Args:
        attain: Simulates a number of replicas.

    Returns:
        The plan's figures; None where not even ``most`` replicas meet the service levels.
    """
    found: dict[int, Attained] = {}

    def meets(replicas: int) -> bool:
        if replicas not in found:
            found[replicas] = attain(replicas)
        return found[replicas].meets(question.attainment)

    high = min(max(guess, 1), most)
    if meets(high):
        low = high - 1
        while low > 0 and meets(low):
            low, high = low // 2, low
    else:
        low, step = high, 1
        while True:
            if high == most:
                return None
            high = min(high + step, most)
            if meets(high):
                break
            low, step = high, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            high = middle
        else:
            low = middle
    return found[high]
