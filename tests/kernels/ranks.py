"""Simulate the ranks of a tensor-parallel group as threads, of which one runs at a time until it gathers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from dspark_kernels.heads import Shard

T = TypeVar("T")


class Ranks:
    """A group of ranks, each with a shard of the vocabulary.

    Attributes:
        shards: By rank; their gather turns 0 into -0, as SGLang's does over NVLink.
        gathered: Shapes of the first rank's gathers.
    """

    def __init__(self, edges: Sequence[int]) -> None:
        count = len(edges) - 1
        self.gathered: list[tuple[int, ...]] = []
        self._turn = threading.Lock()
        self._meet = threading.Barrier(count, timeout=400)
        self._given: list[torch.Tensor] = [torch.empty(0)] * count
        self.shards = [Shard(edges[i], edges[i + 1], self._gather(i)) for i in range(count)]

    def _gather(self, rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def gather(values: torch.Tensor) -> torch.Tensor:
            if rank == 0:
                self.gathered.append(tuple(values.shape))
            assert values.dtype == torch.float32 and values.is_contiguous()
            self._given[rank] = values
            self._turn.release()
            self._meet.wait()
            bits = torch.stack(self._given).view(torch.int32)
            self._meet.wait()
            self._turn.acquire()
            return torch.where(bits == 0, -(2**31), bits).int().view(torch.float32)

        return gather

    def run(self, call: Callable[[Shard], T]) -> list[T]:
        """Run the call on all ranks and return its results."""

        def one(shard: Shard) -> T:
            with self._turn:
                return call(shard)

        with ThreadPoolExecutor(len(self.shards)) as pool:
            return list(pool.map(one, self.shards))
