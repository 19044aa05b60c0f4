"""Random numbers that are the same on every machine and numpy release.

They are built from the raw words of Philox, whose stream numpy guarantees (the methods of ``Generator`` may change
between releases). What is made from them keeps to IEEE-exact operations: no ``exp``, ``log`` or ``power``, whose last
bit depends on the CPU.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
T = TypeVar("T")


class Draws:
    """Random numbers from one Philox stream."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.Philox(key=np.array(key, np.uint64))

    def unit(self, *shape: int) -> NDArray[np.float64]:
        """Uniform in [0, 1), multiples of 2**-24, so that they are exact in float32 too."""
        words = self._bits.random_raw(int(np.prod(shape, dtype=np.int64)))
        return ((words >> np.uint64(40)).astype(np.float64) * 2.0**-24).reshape(shape)

    def one(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(self.unit(1)[0])

    def integers(self, low: int, high: int, *shape: int) -> Integers:
        """Integers in [low, high], both included."""
        return low + np.floor(self.unit(*shape) * (high - low + 1)).astype(np.int64)

    def integer(self, low: int, high: int) -> int:
        return int(self.integers(low, high, 1)[0])

    def chance(self, probability: float) -> bool:
        return self.one() < probability

    def choice(self, options: tuple[T, ...]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def distinct(self, low: int, high: int, count: int) -> list[int]:
        """Up to ``count`` different integers in [low, high], ascending."""
        return [int(value) for value in np.unique(self.integers(low, high, count))]
