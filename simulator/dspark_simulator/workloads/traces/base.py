"""Base class of the trace formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from dspark_simulator.workloads.sampling import FloatArray
from dspark_simulator.workloads.traces.settings import TraceSettings
from dspark_simulator.workloads.traces.source import Source
from dspark_simulator.workloads.traces.values import BoolArray


class Batch(NamedTuple):
    """Requests of a file in its order, NaN where it lacks a value.

    Attributes:
        time_s: float64 [n] after the file's first request; None for a file without arrival times.
        prompt, output: float64 [n] tokens.
        cached: float64 [n] prompt tokens that were in the server's prefix cache.
        hashes: list<int64> [n], hashes of the prompt's blocks.
        classes: [n] names.
        failed: [n], requests that got no answer.
        table: The columns of the file that rules refer to.
    """

    prompt: FloatArray
    output: FloatArray
    time_s: FloatArray | None = None
    cached: FloatArray | None = None
    hashes: pa.ChunkedArray | None = None
    classes: pa.ChunkedArray | None = None
    failed: BoolArray | None = None
    table: pa.Table | None = None


class TraceFormat(ABC):
    """A format of trace files. Members are chosen by content (:meth:`recognises`) or by ``name``.

    Attributes:
        name: Key by which settings choose it.
        title: Name for people, with what its times are where they are not dates.
        block_tokens: Tokens of a block of prefix hashes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    block_tokens: ClassVar[int] = 0

    def __init__(self, source: Source, settings: TraceSettings) -> None:
        self.source, self.settings = source, settings
        self.notes: list[str] = []

    @classmethod
    @abstractmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        """Whether a file with these columns, or a JSON file with this first record, has the format."""

    @classmethod
    def lacks(cls, names: Sequence[str]) -> str:
        """The one column for want of which a file with these columns has not the format, otherwise empty."""
        return ""

    @abstractmethod
    def batches(self, extra: Sequence[str]) -> Iterator[Batch]:
        """The requests of the file.

        Args:
            extra: Columns of the file that rules refer to.

        Raises:
            InputError: The file lacks a column, or a row cannot be read.
        """

    @property
    def rate_per_s(self) -> float | None:
        """Rate at which the file says that its requests were sent at random, for files without arrival times."""
        return None
