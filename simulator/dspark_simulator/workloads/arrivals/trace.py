"""Replay of recorded traffic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import ValidationInfo, field_validator, model_validator

from dspark_simulator.draws import ARRIVAL, uniform_of
from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.model import Positive
from dspark_simulator.workloads.sampling import FloatArray, IntArray
from dspark_simulator.workloads.traces import TraceRows, TraceSettings, read_trace


class Trace(ArrivalProcess, TraceSettings):
    """Arrival times and lengths of a recorded trace, repeated endlessly.

    Seed 0 starts at the first row and every other seed at a random one, so that seeds are different hours of the same
    traffic. The first request arrives at 0. Repetition k is shifted by k periods of the trace's span plus one mean gap,
    and its prefix hashes are not those of earlier repetitions.

    Attributes:
        path: A file of any known format. A relative path starts from the folder ``base`` of the validation context, or
            from the working directory without one.
        rate_scale: Factor on the recorded arrival rate.
    """

    has_lengths: ClassVar[bool] = True
    kind: Literal["trace"] = "trace"
    path: Path
    rate_scale: Positive = 1.0

    @field_validator("path", "class_of")
    @classmethod
    def _located(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        base: Path | None = (info.context or {}).get("base")
        return path if path is None or base is None else base.absolute() / path

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _ = self._rows
        return self

    def times(self, seed: int, size: int) -> Iterator[FloatArray]:
        rows = self._rows
        start = self._start(seed)
        for first in count(start, size):
            passes, place = np.divmod(np.arange(first, first + size), len(rows.time_s))
            yield (rows.time_s[place] + passes * rows.period_s - rows.time_s[start]) / self.rate_scale

    def lengths(self, seed: int, first: int, size: int) -> tuple[IntArray, IntArray]:
        rows, place = self._rows, self._places(seed, first, size)
        return rows.prompt[place].astype(np.int64), rows.output[place].astype(np.int64)

    def cached(self, seed: int, first: int, size: int) -> IntArray | None:
        cached = self._rows.cached
        return None if cached is None else cached[self._places(seed, first, size)].astype(np.int64)

    def class_names(self) -> tuple[str, ...]:
        return self._rows.class_names

    def members(self, seed: int, first: int, size: int) -> IntArray:
        slo_class = self._rows.slo_class
        assert slo_class is not None  # Only traces with class names have members.
        return slo_class[self._places(seed, first, size)].astype(np.int64)

    def blocks(self, seed: int, request: int) -> tuple[list[tuple[int, int]], int] | None:
        blocks = self._rows.blocks
        if blocks is None:
            return None
        repetition, place = divmod(request + self._start(seed), len(self._rows.time_s))
        return [(repetition, number) for number in blocks.of(place).tolist()], blocks.tokens

    def recording(self) -> Path:
        return self.path

    def described(self) -> str:
        return self._rows.description

    def _start(self, seed: int) -> int:
        """First row of a seed."""
        return 0 if seed == 0 else int(uniform_of(seed, 0, 0, ARRIVAL) * len(self._rows.time_s))

    def _places(self, seed: int, first: int, size: int) -> IntArray:
        """int64 [size]: rows of the requests from ``first``."""
        return (np.arange(first, first + size) + self._start(seed)) % len(self._rows.time_s)

    @property
    def mean_rate_per_s(self) -> float:
        return self.rate_scale * self._rows.rate_per_s

    def with_rate(self, rate_per_s: float) -> Trace:
        return self.model_copy(update={"rate_scale": self.rate_scale * rate_per_s / self.mean_rate_per_s})

    @property
    def settings(self) -> TraceSettings:
        """How the file is read."""
        return TraceSettings.model_construct(**{name: getattr(self, name) for name in TraceSettings.model_fields})

    @property
    def _rows(self) -> TraceRows:
        return read_trace(self.path, self.settings)
