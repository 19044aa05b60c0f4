"""What a replica carries within the service levels, and the number of replicas that follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

from dspark_tuning.planning.attainment import HOPELESS, Attained

# A replica that misses its levels at this rate serves a request at a time and still misses them.
LEAST_PER_S: Final = 1e-3
# The first step away from the guess; each further one is the square of the one before.
STEP: Final = 1.3
SHARE, LOW, HIGH = attrgetter("share"), attrgetter("low"), attrgetter("high")
# How close two rates on either side of a capacity are before it is interpolated; plans follow from the lower end.
CLOSE: Final = {LOW: 1.05, SHARE: 1.1, HIGH: 1.1}


class Capacity(NamedTuple):
    """Requests a second that a replica serves within the service levels.

    Attributes:
        per_s: Where the mean share of the worst class is what is asked for.
        low, high: Where its lower and its upper bound are. Plans are made with the lower end.
    """

    per_s: float
    low: float
    high: float


class Sized(NamedTuple):
    """A capacity and the replicas that it takes.

    Attributes:
        found: Of the fewest replicas; None where there are more of them than the limit.
        smaller: Of one replica less; None of a single one.
    """

    capacity: Capacity
    found: Attained | None
    smaller: Attained | None


def size(
    rate_per_s: float, attainment: float, attain: Callable[[float], Attained], guess_per_s: float, most: int
) -> Sized | None:
    """Finds the capacity of a replica, and from it the fewest replicas for ``rate_per_s``.

    All rates are tried on the same seeds. The rates that the fewest replicas and one less have are among them, so that
    the number follows from the capacity and was simulated itself.

    Args:
        attain: Simulates replicas that each get the given requests a second.
        guess_per_s: Where to look first.
        most: The limit on replicas.

    Returns:
        None where a replica does not meet the service levels at any rate.
    """
    tried: dict[float, Attained] = {}

    def at(per_s: float) -> None:
        tried[per_s] = attain(per_s)

    def crossing(bound: Callable[[Attained], float]) -> tuple[float | None, float | None]:
        """The rates on either side of where ``bound`` falls below what is asked for, whatever it does below them."""
        held = {per_s for per_s, one in tried.items() if not one.saturated and bound(one) >= attainment}
        above = min((per_s for per_s in tried if per_s not in held and per_s > min(held, default=0.0)), default=None)
        return max((per_s for per_s in held if above is None or per_s < above), default=None), above

    def between(below: float, above: float, bound: Callable[[Attained], float]) -> float:
        one, other = bound(tried[below]), bound(tried[above])
        part = 0.0 if other >= attainment else (one - attainment) / (one - other)
        return float(below * (above / below) ** part)

    at(guess_per_s)
    for bound, close in CLOSE.items():
        step = STEP
        while True:
            below, above = crossing(bound)
            if below is None:
                assert above is not None
                if above <= LEAST_PER_S:
                    return None
                per_s = max(above / step, LEAST_PER_S)
            elif above is None:
                per_s = below * step
            elif above > close * below:
                known = tried[above].share >= attainment - HOPELESS and not tried[above].saturated
                part = math.log(between(below, above, bound) / below) / math.log(above / below) if known else 0.5
                at(below * (above / below) ** min(max(part, 0.2), 0.8))
                continue
            else:
                break
            at(per_s)
            step *= step
    while True:
        ends = []
        for bound in (SHARE, LOW, HIGH):
            below, above = crossing(bound)
            assert below is not None and above is not None
            ends.append(between(below, above, bound))
        capacity = Capacity(*ends)
        replicas = replicas_for(rate_per_s, capacity.low)
        if replicas > most:
            return Sized(capacity, None, None)
        new = [rate_per_s / n for n in (replicas, replicas - 1) if n > 0 and rate_per_s / n not in tried]
        if not new:
            smaller = tried[rate_per_s / (replicas - 1)] if replicas > 1 else None
            return Sized(capacity, tried[rate_per_s / replicas], smaller)
        for per_s in new:
            at(per_s)


def replicas_for(rate_per_s: float, per_s: float) -> int:
    """How many replicas get at most ``per_s`` each, up to a rounding error."""
    return max(1, math.ceil(rate_per_s / per_s - 1e-9))
