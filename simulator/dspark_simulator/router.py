"""Which replica a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from dspark_simulator import draws

RouterName = Literal["random", "round_robin", "least_loaded"]
Router = Callable[[int, int, Sequence[int]], int]
"""(seed, request id, outstanding requests by replica) -> replica."""


def random(seed: int, request: int, outstanding: Sequence[int]) -> int:
    return int(draws.uniform_of(seed, request, 0, draws.ROUTE) * len(outstanding))


def round_robin(seed: int, request: int, outstanding: Sequence[int]) -> int:
    return request % len(outstanding)


def least_loaded(seed: int, request: int, outstanding: Sequence[int]) -> int:
    """The replica with the fewest outstanding requests, the first among equals."""
    return min(range(len(outstanding)), key=outstanding.__getitem__)


ROUTERS: dict[str, Router] = {"random": random, "round_robin": round_robin, "least_loaded": least_loaded}
