"""Which shared prefixes each replica holds."""

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
    """The radix cache of a replica, as far as whole prefixes go: the least recently used make room.

    Prefixes have what running requests leave of the pool, as in SGLang's ``RadixCache``; what requests share of them is
    counted in each, as the simulator counts all context.
    """

    def __init__(self, kv_tokens: int) -> None:
        self._kv_tokens = kv_tokens
        self._held: OrderedDict[Prefix, int] = OrderedDict()

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix in self._held

    def use(self, prefix: Prefix, tokens: int, kv_used: int) -> bool:
        """Whether ``prefix`` was there; it is from now on, at ``tokens`` or its longest use."""
        found = prefix in self._held
        self._held[prefix] = max(tokens, self._held.pop(prefix, 0))
        left = self._kv_tokens - kv_used
        while len(self._held) > 1 and sum(self._held.values()) > left:
            self._held.popitem(last=False)
        return found


def prefix_of(classes: tuple[RequestClass, ...], slo_class: int, seed: int, request: int) -> Prefix | None:
    """The prefix that a request begins with, each of its class's equally likely; None where all replicas hold all."""
    count = classes[slo_class].prefixes
    if count == 0:
        return None
    return Prefix(slo_class, int(draws.uniform_of(seed, request, 0, draws.SHARED) * count))
