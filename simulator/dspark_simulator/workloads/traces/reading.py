"""Read a trace file: choose its format, collect its requests, and say in one line what was read."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from textwrap import shorten

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dspark_simulator.draws import ARRIVAL, draw, stream, uniform
from dspark_simulator.file_kinds import check_fields
from dspark_simulator.workloads.sampling import FloatArray
from dspark_simulator.workloads.traces.base import Batch, TraceFormat
from dspark_simulator.workloads.traces.formats import FORMATS
from dspark_simulator.workloads.traces.own import Own
from dspark_simulator.workloads.traces.rows import Blocks, Growing, Hashes, TraceRows, reordered, reused
from dspark_simulator.workloads.traces.rules import Rules, read_rules
from dspark_simulator.workloads.traces.settings import TraceSettings
from dspark_simulator.workloads.traces.source import Source
from sglang_dspark.errors import InputError
from sglang_dspark.jit import njit

AS_READ = TraceSettings()


def read_trace(path: Path, settings: TraceSettings = AS_READ) -> TraceRows:
    """Read a trace of any known format; the result is cached until the file changes.

    Requests are sorted by time, equal times in file order. A length of 0 tokens counts as 1: an engine always
    computes a position and emits a token. Times without a zone are UTC.

    Raises:
        InputError: The file cannot be read, its format is not known, it lacks a column or a usable row, a row cannot be
            parsed, or it lacks times or lengths that the settings do not state either.
    """
    try:
        files = [path] if settings.class_of is None else [path, settings.class_of]
        state = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); give the path of a trace file"
        ) from error
    return _read(path, settings.model_dump_json(), state)


@lru_cache(maxsize=4)
def _read(path: Path, settings_json: str, _state: tuple[tuple[int, int], ...]) -> TraceRows:
    settings = TraceSettings.model_validate_json(settings_json)
    source = Source(path, settings.delimiter)
    reader = chosen(source, settings)(source, settings)
    rules = None if settings.class_of is None else read_rules(settings.class_of)
    if rules is not None and "class" in settings.columns:
        raise InputError(f"{path}: columns: class and class_of exclude each other; drop one")
    collected = _Collected(path, rules)
    for batch in reader.batches([] if rules is None else rules.columns):
        collected.add(batch)
    return collected.rows(reader)


def chosen(source: Source, settings: TraceSettings) -> type[TraceFormat]:
    """The format of a file: the stated one, a table of one's own if its lengths are named, or by content.

    Raises:
        InputError: No such format, or none recognises the file.
    """
    if settings.format is not None:
        if settings.format not in FORMATS:
            raise InputError(f"format: {settings.format!r} is not known; give one of {', '.join(FORMATS)}")
        return FORMATS[settings.format]
    if {"prompt", "output"} <= settings.columns.keys():
        return Own
    for member in FORMATS.values():
        if member.recognises(source.names, source.first):
            return member
    check_fields(source.path, "trace")
    if not source.names:
        raise InputError(f"{source.path}: is empty; give a trace with a row for each request")
    for member in FORMATS.values():
        if lacking := member.lacks(source.names):
            raise InputError(
                f"{source.path}: column {lacking} is missing (found {shorten(', '.join(source.names), 200)}), which a "
                f"{member.title} needs; for a table of your own name its columns, as "
                "arrival=ts,prompt=in_tok,output=out_tok"
            )
    raise InputError(
        f"{source.path}: is no known trace (it has {shorten(', '.join(source.names), 200)}); for a table of "
        f"your own name its columns, as arrival=ts,prompt=in_tok,output=out_tok; known formats are {', '.join(FORMATS)}"
    )


class _Collected:
    """Usable requests of a file, and what was left out of it."""

    def __init__(self, path: Path, rules: Rules | None) -> None:
        self._path, self._rules = path, rules
        self._time, self._prompt, self._output = Growing(np.float64), Growing(np.int32), Growing(np.int32)
        self._cached, self._members = Growing(np.int32), Growing(np.int16)
        self._hashes: Hashes | None = None
        self._names: dict[str, int] = {} if rules is None else {name: i for i, name in enumerate(rules.names)}
        self._has_times = self._has_cached = self._has_classes = False
        self._left_out: Counter[str] = Counter()
        self._notes: list[str] = []
        self._rate: float | None = None
        self._zero = 0
        self._size = 0

    def add(self, batch: Batch) -> None:
        """Add the usable requests of a batch."""
        kept = np.ones(len(batch.prompt), np.bool_)
        reasons = {
            "no arrival time": None if batch.time_s is None else np.isnan(batch.time_s),
            "failed": batch.failed,
            "no prompt length": np.isnan(batch.prompt),
            "no output length": np.isnan(batch.output),
            "no class": None if batch.classes is None else np.asarray(batch.classes.is_null()),
        }
        for reason, unusable in reasons.items():
            if unusable is not None and (count := int((unusable & kept).sum())):
                self._left_out[reason] += count
                kept &= ~unusable
        prompt, output = batch.prompt[kept], batch.output[kept]
        self._zero += int(((prompt == 0) | (output == 0)).sum())
        self._size += len(prompt)
        self._prompt.extend(np.maximum(prompt, 1))
        self._output.extend(np.maximum(output, 1))
        if batch.time_s is not None:
            self._has_times = True
            self._time.extend(batch.time_s[kept])
        if batch.cached is not None:
            self._has_cached = True
            self._cached.extend(np.minimum(np.nan_to_num(batch.cached[kept]), np.maximum(prompt, 1) - 1))
        if batch.hashes is not None:
            self._hashes = self._hashes or Hashes()
            self._hashes.extend(batch.hashes, kept)
        if self._rules is not None or batch.classes is not None:
            self._has_classes = True
            self._members.extend(self._classified(batch)[kept])

    def rows(self, reader: TraceFormat) -> TraceRows:
        """The requests in order of arrival.

        Raises:
            InputError: There are none, or all arrive at once, or their times are neither in the file nor stated.
        """
        if not self._size:
            left_out = f": {self._why()}" if self._left_out else ""
            raise InputError(f"{self._path}: has no requests{left_out}; add rows below the header")
        prompt, output, time_s = self._prompt.taken(), self._output.taken(), self._times(reader)
        cached = self._cached.taken() if self._has_cached else None
        members = self._members.taken() if self._has_classes else None
        tokens = reader.settings.block_tokens or reader.block_tokens
        blocks = None if self._hashes is None else self._hashes.taken(tokens)
        if (time_s[1:] < time_s[:-1]).any():
            order = np.argsort(time_s, kind="stable").astype(np.uint32)
            # One at a time: a trace may take much of the memory.
            time_s = time_s[order]
            prompt = prompt[order]
            output = output[order]
            cached, members = (None if part is None else part[order] for part in (cached, members))
            if blocks is not None:
                blocks = Blocks(*reordered(blocks.first, blocks.ids, order), blocks.tokens)
        time_s -= time_s[0]
        if time_s[-1] == 0 and self._has_times:
            raise InputError(f"{self._path}: arrival: the same in every row; give requests at two times or more")
        if blocks is not None:
            seen = np.zeros(int(blocks.ids.max(initial=0)) + 1, np.bool_)
            cached = reused(blocks.first, blocks.ids, blocks.tokens, prompt, seen)
        for array in (time_s, prompt, output, cached, members):
            if array is not None:
                array.flags.writeable = False
        period_s = len(time_s) / self._rate if self._rate else float(time_s[-1]) * len(time_s) / (len(time_s) - 1)
        rows = TraceRows(time_s, prompt, output, period_s, cached, blocks, members, tuple(self._names), "")
        return rows._replace(description=self._description(rows, reader))

    def _times(self, reader: TraceFormat) -> FloatArray:
        """Arrival times: those of the file, or Poisson at the rate that the settings or the file state."""
        stated = reader.settings.rate_per_s
        if self._has_times:
            if stated is not None:
                raise InputError(f"rate_per_s: {stated:g} is given, but {self._path} has arrival times; drop it")
            return self._time.taken()
        self._rate = stated or reader.rate_per_s
        if self._rate is None:
            raise InputError(
                f"{self._path}: has no arrival times; state rate_per_s, the requests that arrive per second"
            )
        whose = "stated" if stated is not None else "its request_rate"
        self._notes.append(f"no arrival times: Poisson at {self._rate:g}/s ({whose})")
        return _poisson(self._size, self._rate)

    def _classified(self, batch: Batch) -> NDArray[np.int16]:
        if self._rules is not None:
            return self._rules.classify(batch)
        assert batch.classes is not None
        encoded = pa.compute.fill_null(batch.classes.cast(pa.string()), "").combine_chunks().dictionary_encode()
        kept = encoded.dictionary.to_pylist()
        numbers = np.array([self._names.setdefault(name, len(self._names)) if name else -1 for name in kept], np.int16)
        if len(self._names) > 1000:
            raise InputError(f"{self._path}: columns: class: has more than 1000 values; choose another column")
        classes: NDArray[np.int16] = numbers[encoded.indices.to_numpy()]
        return classes

    def _why(self) -> str:
        return ", ".join(f"{count:,} {reason}" for reason, count in self._left_out.items())

    def _description(self, rows: TraceRows, reader: TraceFormat) -> str:
        parts = [
            f"{self._path}: {reader.title}",
            f"{len(rows.time_s):,} requests in {_span(rows.span_s)} ({rows.rate_per_s:.3g}/s)",
            f"mean prompt {rows.prompt.mean():,.0f} and output {rows.output.mean():,.0f} tokens",
            *self._notes,
            *reader.notes,
        ]
        if rows.blocks is not None and rows.cached is not None:
            share = rows.cached.sum(dtype=np.int64) / rows.prompt.sum(dtype=np.int64)
            parts.append(f"prefix hits at most {share:.1%} of prompt tokens (blocks of {rows.blocks.tokens})")
        elif rows.cached is not None:
            share = rows.cached.sum(dtype=np.int64) / rows.prompt.sum(dtype=np.int64)
            parts.append(f"prefix hits {share:.1%} of prompt tokens")
        else:
            parts.append("no prefix hits in the file")
        if rows.slo_class is not None:
            counts = np.bincount(rows.slo_class, minlength=len(rows.class_names))
            shares = ", ".join(f"{n} {c / len(rows.time_s):.0%}" for n, c in zip(rows.class_names, counts, strict=True))
            parts.append(f"classes {shorten(shares, 120)}")
        if self._zero:
            parts.append(f"{self._zero:,} lengths of 0 count as 1")
        parts.append(f"left out: {self._why() or 'none'}")
        return "; ".join(parts)


def _span(seconds: float) -> str:
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


@njit(cache=True)
def _poisson(count: int, rate_per_s: float) -> FloatArray:
    """float64 [count]: arrival times of a Poisson process, the same on every call."""
    out = np.empty(count)
    last = 0.0
    for i in range(count):
        out[i] = last
        last -= np.log1p(-uniform(draw(stream(0, i), 0, ARRIVAL))) / rate_per_s
    return out
