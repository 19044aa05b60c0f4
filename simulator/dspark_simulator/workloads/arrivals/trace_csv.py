"""Reader of request traces with the columns of the Azure LLM inference traces of 2023."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from dspark_simulator.workloads.sampling import FloatArray, IntArray
from sglang_dspark.errors import InputError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_ROW = np.dtype([("time_us", "i8"), ("prompt", "i8"), ("output", "i8")])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TOKENS_LIMIT = 1 << 31


class TraceRows(NamedTuple):
    """Requests of a trace in order of arrival.

    Attributes:
        time_s: float64 [n], seconds after the first request, to the microsecond.
        prompt: int64 [n], >= 1.
        output: int64 [n], >= 1.
        period_s: Time after which the trace repeats: its span plus one mean gap, which keeps the mean rate.
    """

    time_s: FloatArray
    prompt: IntArray
    output: IntArray
    period_s: float


def read_trace(path: Path) -> TraceRows:
    """Read a trace; the result is cached until the file changes.

    Rows are sorted by time, equal times in file order; other columns are ignored. A length of 0 tokens counts as 1: an
    engine always computes a position and emits a token. Times without a zone are UTC.

    Raises:
        InputError: The file cannot be read, lacks a column or a usable row, or a row cannot be parsed.
    """
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV trace") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV text ({error}); give the path of a CSV trace") from error


@lru_cache(maxsize=4)
def _read(path: Path, _modified_ns: int, _size: int) -> TraceRows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = np.fromiter(_parsed(path, file), _ROW)
    if not len(rows):
        raise InputError(f"{path}: has no requests; add rows below the header")
    rows = rows[np.argsort(rows["time_us"], kind="stable")]
    time_s = (rows["time_us"] - rows["time_us"][0]) / 1e6
    if time_s[-1] == 0:
        raise InputError(f"{path}: TIMESTAMP: the same in every row; give requests at two times or more")
    prompt, output = np.maximum(rows["prompt"], 1), np.maximum(rows["output"], 1)
    for array in (time_s, prompt, output):
        array.flags.writeable = False
    return TraceRows(time_s, prompt, output, float(time_s[-1]) * len(rows) / (len(rows) - 1))


def _parsed(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, int, int]]:
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    for name in COLUMNS:
        if name not in header:
            present = shorten(", ".join(header), 120) or "an empty file"
            raise InputError(f"{path}: column {name} is missing (found {present}); a trace needs {', '.join(COLUMNS)}")
    columns = [header.index(name) for name in COLUMNS]
    for row in reader:
        if not row:
            continue
        where = f"{path}: line {reader.line_num}"
        if len(row) != len(header):
            raise InputError(f"{where}: {len(row)} fields under {len(header)} columns; complete the row")
        moment, prompt, output = (row[column] for column in columns)
        yield _microseconds(moment, where), _tokens(prompt, COLUMNS[1], where), _tokens(output, COLUMNS[2], where)


def _microseconds(text: str, where: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{where}: TIMESTAMP: {text!r} is not valid; write 2023-11-16 18:15:46.680590") from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _tokens(text: str, column: str, where: str) -> int:
    try:
        tokens = int(text)
    except ValueError:
        tokens = -1
    if not 0 <= tokens < _TOKENS_LIMIT:
        raise InputError(f"{where}: {column}: {text!r} is not valid; give a whole number of tokens")
    return tokens
