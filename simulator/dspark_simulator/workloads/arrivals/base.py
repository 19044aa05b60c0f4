"""What every arrival process has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from dspark_simulator.workloads.model import Described
from dspark_simulator.workloads.sampling import FloatArray


class ArrivalProcess(Described):
    """When requests arrive."""

    @abstractmethod
    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        """Endless chunks, float64 [size], of nondecreasing arrival times in seconds; the same for every ``size``."""

    @property
    @abstractmethod
    def mean_rate_per_s(self) -> float | None:
        """Long-run requests per second, or None where the server sets the pace."""

    @abstractmethod
    def with_rate(self, rate_per_s: float) -> ArrivalProcess:
        """The same process, faster or slower, so that its mean rate is ``rate_per_s`` > 0."""
