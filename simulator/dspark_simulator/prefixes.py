"""Prefix cache of a replica: the shared prefixes that it holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from dspark_simulator import draws
from dspark_simulator.workloads import Request, Workload


class Block(NamedTuple):
    """A part of a prompt that other requests share: (class, number) of a shared prefix, or (repetition, hash)."""

    group: int
    number: int


Prefix = tuple[tuple[Block, int], ...]
"""Leading blocks of a prompt, each with its tokens."""


class Prefixes:
    """Radix cache of a replica at the level of blocks, with eviction of the least recently used.

    Blocks use the part of the pool that running requests leave, as in SGLang's ``RadixCache``. A prefix counts fully in
    every request that shares it, like all context in the simulator.
    """

    def __init__(self, kv_tokens: int) -> None:
        self._kv_tokens = kv_tokens
        self._held: OrderedDict[Block, int] = OrderedDict()
        self._tokens = 0

    def __contains__(self, block: Block) -> bool:
        return block in self._held

    def hit(self, prefix: Prefix) -> int:
        """Tokens of the leading blocks of ``prefix`` that are held."""
        total = 0
        for block, tokens in prefix:
            if block not in self._held:
                break
            total += tokens
        return total

    def use(self, prefix: Prefix, kv_used: int) -> int:
        """Look up ``prefix`` and hold it from now on, each block at its longest use; returns the tokens found."""
        hit = self.hit(prefix)
        # The last block first: in a radix tree the end of a prompt is evicted before its start.
        for block, tokens in reversed(prefix):
            held = self._held.pop(block, 0)
            self._held[block] = max(tokens, held)
            self._tokens += self._held[block] - held
        left = self._kv_tokens - kv_used
        while len(self._held) > 1 and self._tokens > left:
            self._tokens -= self._held.popitem(last=False)[1]
        return hit


def prefix_of(workload: Workload, request: Request, seed: int) -> Prefix | None:
    """Shared prefix of a request; None if what it finds in the cache does not depend on the replica.

    With prefix hashes these are the blocks of its prompt; otherwise one block, drawn uniformly from the prefixes of its
    class.
    """
    hashed = workload.arrivals.blocks(seed, request.id)
    if hashed is not None:
        keys, tokens = hashed
        return tuple(
            (Block(*key), min(tokens, request.prompt - place * tokens))
            for place, key in enumerate(keys)
            if place * tokens < request.prompt
        )
    count = workload.classes[request.slo_class].prefixes
    if count == 0 or workload.arrivals.cached(seed, request.id, 1) is not None:
        return None
    number = int(draws.uniform_of(seed, request.id, 0, draws.SHARED) * count)
    return ((Block(request.slo_class, number), request.cached),)
