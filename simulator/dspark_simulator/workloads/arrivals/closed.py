"""Closed loop: clients that wait for their answer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.arrivals.poisson import Poisson
from dspark_simulator.workloads.sampling import FloatArray


class Closed(ArrivalProcess):
    """A closed loop: each client sends its next request when its previous one ends; requests have no arrival time.

    Attributes:
        clients: Number of clients, of all replicas together.
    """

    kind: Literal["closed"] = "closed"
    clients: Annotated[int, Field(ge=1)]

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        return repeat(np.zeros(size))

    @property
    def mean_rate_per_s(self) -> None:
        return None

    def concurrency(self) -> int:
        return self.clients

    def with_rate(self, rate_per_s: float) -> Poisson:
        """Poisson arrivals at that rate, since a closed loop has none."""
        return Poisson(rate_per_s=rate_per_s)
