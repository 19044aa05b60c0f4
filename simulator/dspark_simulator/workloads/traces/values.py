"""Arrival times and token counts from the columns of a trace."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dspark_simulator.workloads.sampling import FloatArray
from dspark_simulator.workloads.traces.settings import TimeUnit
from sglang_dspark.errors import InputError

BoolArray = NDArray[np.bool_]

TOKENS_LIMIT = 1 << 31
UNITS_PER_S: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}

# The first number of seconds that is read as a date, 2001-09-09; 31 years as a span.
_EPOCH_FROM_S = 1e9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """Turns a column of arrival times into seconds after the file's first time.

    Times are ISO text, timestamps or numbers. The unit of numbers is the stated one, or by magnitude the one that puts
    them between the years 2001 and 5138; smaller numbers are seconds from any origin.

    Attributes:
        kind: What the times are, in words.
    """

    def __init__(self, where: str, column: str, unit: TimeUnit | None) -> None:
        self._where, self._column, self._stated = where, column, unit
        self._unit = unit
        self._text_is_dates = False
        self._zones: list[str | None] = [None, "UTC"]
        self._origin: float | int | None = None
        self._low, self._high = math.inf, -math.inf
        self.kind = ""

    def seconds(self, column: pa.ChunkedArray, row: int) -> FloatArray:
        """float64 [n], NaN where a time is missing; the first of the rows is row ``row`` of the file.

        Raises:
            InputError: Neither a time nor a number, or numbers of two magnitudes.
        """
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            text = pc.utf8_trim_whitespace(column)
            if not self.kind:
                known = text.drop_null()
                self._text_is_dates = len(known) > 0 and not _is_float(known[0].as_py())
            if self._text_is_dates:
                return self._of_dates(self._parsed(text, row))
            try:
                return self._of_numbers(pc.cast(text, pa.float64()))
            except pa.ArrowInvalid:
                raise self._bad(text, row, _is_float, "give numbers in every row") from None
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            return self._of_dates(pc.cast(pc.cast(column, pa.timestamp("ns")), pa.int64()))
        return self._of_numbers(column)

    def _of_dates(self, nanoseconds: pa.ChunkedArray) -> FloatArray:
        self.kind = "dates"
        known = nanoseconds.drop_null()
        if self._origin is None and len(known):
            self._origin = known[0].as_py()
        relative = pc.subtract(nanoseconds, self._origin or 0)
        return _floats(relative) / 1e9

    def _parsed(self, column: pa.ChunkedArray, row: int) -> pa.ChunkedArray:
        """int64 nanoseconds since 1970; times without a zone are UTC."""
        for zone in self._zones:
            try:
                parsed = pc.cast(pc.cast(column, pa.timestamp("ns", tz=zone)), pa.int64())
            except pa.ArrowInvalid:
                continue
            # A cast that fails is slow: the next block begins with what these times are.
            self._zones = [zone, *(other for other in self._zones if other != zone)]
            return parsed
        try:
            values = [None if text is None else _nanoseconds(text) for text in column.to_pylist()]
        except (ValueError, OverflowError):
            remedy = "write 2023-11-16 18:15:46.680590, or seconds as numbers"
            raise self._bad(column, row, _is_date, remedy) from None
        return pa.chunked_array([pa.array(values, pa.int64())])

    def _of_numbers(self, column: pa.ChunkedArray) -> FloatArray:
        times = _floats(column)
        known = times[~np.isnan(times)]
        if not len(known):
            return times
        if not np.isfinite(known).all():
            raise InputError(f"{self._where}: {self._column}: holds an infinity; give times in every row")
        low, high = float(known.min()), float(known.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._stated is None:
            unit, last = _unit(low), _unit(high)
            if self.kind == "dates" or unit != last or (self._unit or unit) != unit or self._mixed():
                raise InputError(
                    f"{self._where}: {self._column}: {self._low:.10g} and {self._high:.10g} are no times of one unit; "
                    "state time_unit (s, ms, us or ns)"
                )
            self._unit = unit
        assert self._unit is not None
        if self._origin is None:
            self._origin = float(known[0])
            epoch = self._origin / UNITS_PER_S[self._unit] >= _EPOCH_FROM_S
            self.kind = f"{'epoch' if epoch else 'relative'} times in {self._unit}"
        return (times - self._origin) / UNITS_PER_S[self._unit]

    def _mixed(self) -> bool:
        return self._low < _EPOCH_FROM_S <= self._high

    def _bad(self, column: pa.ChunkedArray, row: int, valid: Any, remedy: str) -> InputError:
        place, text = next((i, t) for i, t in enumerate(column.to_pylist()) if t is not None and not valid(t))
        return InputError(f"{self._where}: row {row + place}: {self._column}: {text!r} is not valid; {remedy}")


def _unit(value: float) -> TimeUnit:
    size = abs(value)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def tokens(column: pa.ChunkedArray, where: str, name: str, row: int) -> FloatArray:
    """float64 [n] whole numbers of tokens, NaN where one is missing; the first is row ``row`` of the file.

    Raises:
        InputError: Not a whole number from 0 to 2**31 - 1.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            counts = _floats(pc.cast(pc.utf8_trim_whitespace(column), pa.float64()))
        except pa.ArrowInvalid:
            counts = np.array([_number(text) for text in column.to_pylist()])
    else:
        counts = _floats(column)
    missing = np.asarray(column.is_null())
    with np.errstate(invalid="ignore"):
        valid = missing | ((counts >= 0) & (counts < TOKENS_LIMIT) & (counts == np.floor(counts)))
    if not valid.all():
        place = int(np.argmin(valid))
        value = column[place].as_py()
        raise InputError(f"{where}: row {row + place}: {name}: {value!r} is not valid; give a whole number of tokens")
    return counts


def _floats(column: pa.ChunkedArray) -> FloatArray:
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy())


def _number(text: str | None) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return -1.0


def _is_float(text: str) -> bool:
    return not math.isnan(_number(text)) and _number(text) != -1.0


def _nanoseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if text.isdigit():
        raise ValueError(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _is_date(text: str) -> bool:
    try:
        _nanoseconds(text.strip())
    except (ValueError, OverflowError):
        return False
    return True
