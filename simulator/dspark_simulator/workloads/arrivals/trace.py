"""Replay of recorded traffic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import ValidationInfo, field_validator

from dspark_simulator.draws import ARRIVAL, uniform_of
from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.arrivals.trace_csv import TraceRows, read_trace
from dspark_simulator.workloads.model import Positive
from dspark_simulator.workloads.sampling import FloatArray, IntArray


class Trace(ArrivalProcess):
    """Arrival times and lengths of a recorded trace, repeated endlessly.

    Seed 0 starts at the first row and every other seed at a random one, so that seeds are different hours of the same
    traffic. The first request arrives at 0. Repetition k is shifted by k periods of the trace's span plus one mean gap.

    Attributes:
        path: CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens. A relative path starts from the folder
            ``base`` of the validation context, or from the working directory without one.
        rate_scale: Factor on the recorded arrival rate.
    """

    has_lengths: ClassVar[bool] = True
    kind: Literal["trace"] = "trace"
    path: Path
    rate_scale: Positive = 1.0

    @field_validator("path")
    @classmethod
    def _readable(cls, path: Path, info: ValidationInfo) -> Path:
        base: Path | None = (info.context or {}).get("base")
        located = path if base is None else base.absolute() / path
        read_trace(located)
        return located

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        rows = self._rows
        start = self._start(seed)
        for first in count(start, size):
            passes, place = np.divmod(np.arange(first, first + size), len(rows.time_s))
            yield (rows.time_s[place] + passes * rows.period_s - rows.time_s[start]) / self.rate_scale

    def lengths(self, seed: int, first: int, size: int) -> tuple[IntArray, IntArray]:
        rows = self._rows
        place = (np.arange(first, first + size) + self._start(seed)) % len(rows.time_s)
        return rows.prompt[place], rows.output[place]

    def recording(self) -> Path:
        return self.path

    def _start(self, seed: int) -> int:
        """First row of a seed."""
        return 0 if seed == 0 else int(uniform_of(seed, 0, 0, ARRIVAL) * len(self._rows.time_s))

    @property
    def mean_rate_per_s(self) -> float:
        return self.rate_scale * len(self._rows.time_s) / self._rows.period_s

    def with_rate(self, rate_per_s: float) -> Trace:
        return Trace(path=self.path, rate_scale=self.rate_scale * rate_per_s / self.mean_rate_per_s)

    @property
    def _rows(self) -> TraceRows:
        return read_trace(self.path)
