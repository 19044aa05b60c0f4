"""Count the global-memory accesses of Triton kernels under the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from triton.runtime import interpreter


class LaunchTraffic(NamedTuple):
    """Bytes that one launch reads and writes.

    Attributes:
        kernel: Its name.
        every: All unmasked accesses.
        distinct: Each address counted once for reads and once for writes: the traffic to memory where the L2 cache
            serves all repeated accesses.
    """

    kernel: str
    every: int
    distinct: int


class _Accesses:
    """The addresses that one launch accesses, by kind and width."""

    def __init__(self) -> None:
        self.every = 0
        self._seen: dict[tuple[str, int], list[NDArray[np.uint64]]] = {}

    def add(self, kind: str, addresses: NDArray[np.uint64], mask: NDArray[np.bool_], width: int) -> None:
        spread, through = np.broadcast_arrays(addresses, mask)
        touched = spread[through]
        self.every += touched.size * width
        self._seen.setdefault((kind, width), []).append(np.unique(touched))

    def distinct(self) -> int:
        return sum(np.unique(np.concatenate(arrays)).size * width for (_, width), arrays in self._seen.items())


@contextmanager
def counting() -> Iterator[list[LaunchTraffic]]:
    """Yield a list that collects every launch in the block, SGLang's kernels included."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, update, run = (
        builder.create_masked_load,
        builder.create_masked_store,
        builder.create_atomic_rmw,
        executor.__call__,
    )
    launches: list[LaunchTraffic] = []
    current: list[_Accesses] = []

    def note(kind: str, pointers: Any, mask: Any) -> None:
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        current[-1].add(kind, pointers.data, mask.data.astype(bool), width)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        note("read", pointers, mask)
        return load(self, pointers, mask, *rest, **named)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        note("write", pointers, mask)
        return store(self, pointers, value, mask, *rest, **named)

    def create_atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("read", pointers, mask)
        note("write", pointers, mask)
        return update(self, op, pointers, value, mask, *rest)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        current.append(_Accesses())
        result = run(self, *arguments, **options)
        accesses = current.pop()
        launches.append(LaunchTraffic(self.fn.__name__, accesses.every, accesses.distinct()))
        return result

    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store
    builder.create_atomic_rmw, executor.__call__ = create_atomic_rmw, call
    try:
        yield launches
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        builder.create_atomic_rmw, executor.__call__ = update, run
