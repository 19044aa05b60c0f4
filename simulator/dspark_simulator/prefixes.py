"""Prefix cache of a replica: the shared prefixes that it holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from dspark_simulator import draws
from dspark_simulator.workloads import RequestClass


class Prefix(NamedTuple):
    """One of the shared prefixes of a class."""

    slo_class: int
    number: int


class Prefixes:
    """Radix cache of a replica at the level of whole prefixes, with eviction of the least recently used.

    Prefixes use the part of the pool that running requests leave, as in SGLang's ``RadixCache``. A prefix counts fully
    in every request that shares it, like all context in the simulator.
    """

    def __init__(self, kv_tokens: int) -> None:
        self._kv_tokens = kv_tokens
        self._held: OrderedDict[Prefix, int] = OrderedDict()

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix in self._held

    def use(self, prefix: Prefix, tokens: int, kv_used: int) -> bool:
        """Look up ``prefix`` and hold it from now on, at ``tokens`` or its longest use; returns whether it was held."""
        hit = prefix in self._held
        self._held[prefix] = max(tokens, self._held.pop(prefix, 0))
        left = self._kv_tokens - kv_used
        while len(self._held) > 1 and sum(self._held.values()) > left:
            self._held.popitem(last=False)
        return hit


def prefix_of(classes: tuple[RequestClass, ...], slo_class: int, seed: int, request: int) -> Prefix | None:
    """Prefix of a request, drawn uniformly from those of its class; None for a class whose prefixes are always held."""
    count = classes[slo_class].prefixes
    if count == 0:
        return None
    return Prefix(slo_class, int(draws.uniform_of(seed, request, 0, draws.SHARED) * count))
