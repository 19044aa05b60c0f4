"""Routing of requests to replicas. A new router is a function here and an entry of ``ROUTERS``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Final

from dspark_simulator import draws
from sglang_dspark.shapes.registry import KeyOf

Router = Callable[[int, int, Sequence[int], Collection[int]], int]
"""(seed, request id, outstanding requests by replica, replicas that hold the request's prefix) -> replica."""

# Imbalance beyond which load takes precedence over prefixes (``--balance-abs-threshold`` and
# ``--balance-rel-threshold`` of SGLang's gateway).
BALANCE_ABS: Final = 64
BALANCE_REL: Final = 1.5


def random(seed: int, request: int, outstanding: Sequence[int], holders: Collection[int] = ()) -> int:
    return int(draws.uniform_of(seed, request, 0, draws.ROUTE) * len(outstanding))


def round_robin(seed: int, request: int, outstanding: Sequence[int], holders: Collection[int] = ()) -> int:
    return request % len(outstanding)


def least_loaded(seed: int, request: int, outstanding: Sequence[int], holders: Collection[int] = ()) -> int:
    """The replica with the fewest outstanding requests; the first of equally loaded ones."""
    return min(range(len(outstanding)), key=outstanding.__getitem__)


def prefix_aware(seed: int, request: int, outstanding: Sequence[int], holders: Collection[int] = ()) -> int:
    """The least loaded replica that holds the prefix; of all replicas where none does or loads are too unequal.

    The ``cache_aware`` policy of SGLang's gateway, with exact knowledge of the replicas' caches.
    """
    most, least = max(outstanding), min(outstanding)
    if not holders or (most - least > BALANCE_ABS and most > BALANCE_REL * least):
        return least_loaded(seed, request, outstanding)
    return min(sorted(holders), key=outstanding.__getitem__)


ROUTERS: dict[str, Router] = {
    "random": random,
    "round_robin": round_robin,
    "least_loaded": least_loaded,
    "prefix_aware": prefix_aware,
}

RouterName = Annotated[str, KeyOf(ROUTERS)]
