"""Ranking drafts by score: exact, with ties broken by (position, request), without sorting where a count is enough.

A positive float32 and its bit pattern read as an integer have the same order, so scores are compared as integers.
Ranks then never depend on how a platform compares floats, and a kernel that forms the same products gets the same
ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit

DIGITS = 3
DIGIT_BITS = 10
DIGIT_VALUES = 1 << DIGIT_BITS
TOP_SHIFT = 2 * DIGIT_BITS

Keys = NDArray[np.int32]
Counts = NDArray[np.int64]


@njit(cache=True)
def kth_largest(keys: Keys, n: int, k: int, counts: Counts, scratch: Keys) -> tuple[int, int]:
    """The k-th largest of ``keys[:n]`` and how many are larger, by radix selection: O(n), no sort.

    Args:
        keys: int32, non-negative.
        n: How many of ``keys`` to look at.
        k: 1..n.
        counts: int64 [2 * DIGIT_VALUES], scratch.
        scratch: int32 [n] at least, scratch.
    """
    source, left, above, prefix = keys, n, 0, 0
    for digit in range(DIGITS):
        shift = TOP_SHIFT - digit * DIGIT_BITS
        # The top digit has one bit more: keys have 31 bits.
        mask = 2 * DIGIT_VALUES - 1 if digit == 0 else DIGIT_VALUES - 1
        counts[: mask + 1] = 0
        for i in range(left):
            counts[(source[i] >> shift) & mask] += 1
        value = mask
        while above + counts[value] < k:
            above += counts[value]
            value -= 1
        prefix |= value << shift
        if counts[value] == 1 or digit == DIGITS - 1:
            if digit < DIGITS - 1:
                for i in range(left):
                    if (source[i] >> shift) & mask == value:
                        return int(source[i]), above
            break
        kept = 0
        for i in range(left):
            if (source[i] >> shift) & mask == value:
                scratch[kept] = source[i]
                kept += 1
        source, left = scratch, kept
    return prefix, above


@njit(cache=True)
def sort_descending(keys: Keys, n: int, counts: Counts, scratch: Keys) -> None:
    """Sort ``keys[:n]`` in place, largest first, by radix. ``counts`` int64 [4 * DIGIT_VALUES], scratch [n]."""
    counts[:] = 0
    for i in range(n):
        key = keys[i]
        counts[key & (DIGIT_VALUES - 1)] += 1
        counts[DIGIT_VALUES + ((key >> DIGIT_BITS) & (DIGIT_VALUES - 1))] += 1
        counts[2 * DIGIT_VALUES + (key >> TOP_SHIFT)] += 1
    source, target = keys, scratch
    for digit in range(DIGITS):
        base = digit * DIGIT_VALUES
        size = DIGIT_VALUES if digit < DIGITS - 1 else 2 * DIGIT_VALUES
        shift = digit * DIGIT_BITS
        mask = size - 1
        total = 0
        for value in range(size - 1, -1, -1):
            count = counts[base + value]
            counts[base + value] = total
            total += count
        for i in range(n):
            value = (source[i] >> shift) & mask
            target[counts[base + value]] = source[i]
            counts[base + value] += 1
        source, target = target, source
    keys[:n] = scratch[:n]
