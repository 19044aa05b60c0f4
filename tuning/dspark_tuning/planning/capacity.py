"""Capacity of a replica within the service levels, and the resulting number of replicas."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

from dspark_tuning.planning.attainment import HOPELESS, Attained

# At this rate a replica serves one request at a time; if it misses its service levels, no rate meets them.
LEAST_PER_S: Final = 1e-3
# First factor away from the guess; each further factor is the square of the one before.
STEP: Final = 1.3
SHARE, LOW, HIGH = attrgetter("share"), attrgetter("low"), attrgetter("high")
# Ratio of the rates on either side of a capacity below which it is interpolated; plans follow from the lower bound.
CLOSE: Final = {LOW: 1.05, SHARE: 1.1, HIGH: 1.1}


class Capacity(NamedTuple):
    """Arrival rate of a replica up to which it meets the service levels, requests per second.

    Attributes:
        per_s: Rate at which the mean attainment of the worst class is the required one.
        low, high: Rates at which its lower and its upper bound are. The number of replicas follows from ``low``.
    """

    per_s: float
    low: float
    high: float


class Sized(NamedTuple):
    """Capacity of a replica, and the attainment of the fewest replicas.

    Attributes:
        attained: Attainment of the fewest replicas; None if that number exceeds the limit.
        smaller: Attainment of one replica less; None for a single replica.
    """

    capacity: Capacity
    attained: Attained | None
    smaller: Attained | None


def size(
    rate_per_s: float, attainment: float, attain: Callable[[float], Attained], guess_per_s: float, most: int
) -> Sized | None:
    """Find the capacity of a replica, and from it the fewest replicas for ``rate_per_s``.

    All rates are simulated on the same seeds, among them those of the fewest replicas and of one replica less, so that
    the number of replicas follows from the capacity and has itself been simulated.

    Args:
        attain: Simulates replicas at a rate per replica.
        guess_per_s: The first rate to simulate.
        most: Upper limit of replicas.

    Returns:
        None if a replica does not meet the service levels at any rate.
    """
    tried: dict[float, Attained] = {}

    def at(per_s: float) -> None:
        tried[per_s] = attain(per_s)

    def crossing(bound: Callable[[Attained], float]) -> tuple[float | None, float | None]:
        """The rates on either side of the highest crossing of ``bound`` below the required attainment."""
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
    """Number of replicas with at most ``per_s`` each, up to a rounding error."""
    return max(1, math.ceil(rate_per_s / per_s - 1e-9))
