"""Base class of the arrival processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dspark_simulator.workloads.model import Described
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class ArrivalProcess(Described):
    """The times at which requests arrive. Members add ``kind: Literal[...]``, the key by which scenarios choose them.

    Attributes:
        has_lengths: The process also gives prompt and output lengths (:meth:`lengths`), so that classes need none.
        splits_at_random: A random subset of the requests arrives by the same kind of process at the subset's rate,
            independently of the rest (Poisson streams).
    """

    has_lengths: ClassVar[bool] = False
    splits_at_random: ClassVar[bool] = False

    @abstractmethod
    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        """Endless chunks, float64 [size], of nondecreasing arrival times in seconds; the same for every ``size``."""

    @property
    @abstractmethod
    def mean_rate_per_s(self) -> float | None:
        """Long-run requests per second, or None where the server sets the pace."""

    @abstractmethod
    def with_rate(self, rate_per_s: float) -> ArrivalProcess:
        """The same process at a mean rate of ``rate_per_s`` > 0."""

    def concurrency(self) -> int | None:
        """Clients of a closed loop; None for arrivals that do not wait for the server."""
        return None

    def lengths(self, seed: int, first: int, size: int) -> tuple[IntArray, IntArray]:
        """Prompt and output lengths in tokens, int64 [size] each, of the requests ``first .. first + size - 1``.

        Only processes with ``has_lengths`` have them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no lengths")

    def cached(self, seed: int, first: int, size: int) -> IntArray | None:
        """Prompt tokens in the prefix cache, int64 [size], at most; None where the classes say how many."""
        return None

    def class_names(self) -> tuple[str, ...]:
        """Classes that the process gives its requests (:meth:`members`); empty where shares decide."""
        return ()

    def members(self, seed: int, first: int, size: int) -> IntArray:
        """int64 [size]: index in ``class_names()`` of each request's class, for processes that have class names."""
        raise NotImplementedError(f"{type(self).__name__} has no classes")

    def blocks(self, seed: int, request: int) -> tuple[list[tuple[int, int]], int] | None:
        """Keys of the blocks of a request's prompt and the tokens of a block; None without prefix hashes."""
        return None

    def recording(self) -> Path | None:
        """File of the recorded traffic that the process replays; None for a model of traffic."""
        return None

    def described(self) -> str:
        """One line that says what was read from :meth:`recording`."""
        return ""
