"""Requests of a trace as arrays, collected block by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dspark_simulator.workloads.sampling import FloatArray, IntArray
from sglang_dspark.jit import njit

Int32Array = NDArray[np.int32]

# Hashes below are kept; others are numbered from here.
_SMALL = 1 << 28


class Blocks(NamedTuple):
    """Prefix hashes of the prompts of a trace.

    Attributes:
        first: int64 [n + 1]; the blocks of request i are ``ids[first[i]:first[i + 1]]``.
        ids: int32, one number for each different hash, from 0.
        tokens: Of a whole block.
    """

    first: IntArray
    ids: Int32Array
    tokens: int

    def of(self, request: int) -> Int32Array:
        """The blocks of a request."""
        return self.ids[self.first[request] : self.first[request + 1]]


class TraceRows(NamedTuple):
    """Requests of a trace in order of arrival.

    Attributes:
        time_s: float64 [n], seconds after the first request.
        prompt, output: int32 [n], >= 1.
        period_s: Time after which the trace repeats: its span plus one mean gap, which keeps the mean rate.
        cached: int32 [n], prompt tokens in the prefix cache: those the file counts, or those of leading blocks that an
            earlier request had; None if the file says nothing of them.
        blocks: Prefix hashes, if the file has them.
        slo_class: int16 [n], index in ``class_names``; None if the file gives no classes.
        class_names: Classes by index.
        description: One line that says what was read.
    """

    time_s: FloatArray
    prompt: Int32Array
    output: Int32Array
    period_s: float
    cached: Int32Array | None
    blocks: Blocks | None
    slo_class: NDArray[np.int16] | None
    class_names: tuple[str, ...]
    description: str

    @property
    def span_s(self) -> float:
        return float(self.time_s[-1])

    @property
    def rate_per_s(self) -> float:
        """Requests per second, which the repeated trace keeps."""
        return len(self.time_s) / self.period_s


class Growing:
    """An array that is extended in place, so that a large file is never held twice."""

    def __init__(self, dtype: Any) -> None:
        self._array = np.empty(1 << 12, dtype)
        self._size = 0

    def extend(self, values: NDArray[Any]) -> None:
        size = self._size + len(values)
        if size > len(self._array):
            # realloc moves pages of a large array without copying them.
            self._array.resize(size + size // 8, refcheck=False)
        self._array[self._size : size] = values
        self._size = size

    def held(self) -> NDArray[Any]:
        """The values so far."""
        return self._array[: self._size]

    def taken(self) -> NDArray[Any]:
        """The values; the object must not be used afterwards."""
        self._array.resize(self._size, refcheck=False)
        return self._array


class Hashes:
    """Collects the prefix hashes of requests."""

    def __init__(self) -> None:
        self._counts, self._ids = Growing(np.int32), Growing(np.int32)
        self._numbers: dict[Any, int] | None = None

    def extend(self, column: pa.ChunkedArray, kept: NDArray[np.bool_]) -> None:
        for chunk in column.filter(pa.array(kept)).chunks:
            filled = chunk.fill_null([]) if chunk.null_count else chunk
            lengths = np.diff(filled.offsets.to_numpy())
            self._counts.extend(lengths)
            self._ids.extend(self._small(filled.flatten()))

    def taken(self, tokens: int) -> Blocks:
        first = np.concatenate(([0], np.cumsum(self._counts.taken(), dtype=np.int64)))
        return Blocks(first, self._ids.taken(), tokens)

    def _small(self, hashes: pa.Array) -> NDArray[Any]:
        """Small numbers, as traces have them, as they are; other hashes, also text, as numbers by appearance."""
        if self._numbers is None:
            ids = hashes.to_numpy(zero_copy_only=False)
            if not len(ids) or (pa.types.is_integer(hashes.type) and ids.min() >= 0 and ids.max() < _SMALL):
                small: NDArray[Any] = ids
                return small
            self._numbers = {int(number): int(number) for number in np.unique(self._ids.held())}
        numbers = self._numbers
        return np.array([numbers.setdefault(one, _SMALL + len(numbers)) for one in hashes.to_pylist()], np.int64)


@njit(cache=True)
def reused(first: IntArray, ids: Int32Array, tokens: int, prompt: Int32Array, seen: NDArray[np.bool_]) -> Int32Array:
    """int32 [n]: prompt tokens in leading blocks that an earlier request had, at most all but the last token.

    Args:
        tokens: Of a whole block; a prompt's last block may be shorter.
        seen: False for each hash; on return whether a request had it.
    """
    out = np.zeros(prompt.shape[0], np.int32)
    for i in range(prompt.shape[0]):
        blocks = first[i + 1] - first[i]
        leading = 0
        while leading < blocks and seen[ids[first[i] + leading]]:
            leading += 1
        out[i] = min(leading * tokens, prompt[i] - 1)
        for k in range(first[i], first[i + 1]):
            seen[ids[k]] = True
    return out


@njit(cache=True)
def reordered(first: IntArray, ids: Int32Array, order: NDArray[np.uint32]) -> tuple[IntArray, Int32Array]:
    """The blocks of requests in another order."""
    new_first, new_ids = np.zeros_like(first), np.empty_like(ids)
    place = 0
    for i in range(order.shape[0]):
        for k in range(first[order[i]], first[order[i] + 1]):
            new_ids[place] = ids[k]
            place += 1
        new_first[i + 1] = place
    return new_first, new_ids
