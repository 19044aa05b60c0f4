"""A stand-in for a GPU's streams, events and memory, in which work waits until a test lets it run.

What the host enqueues on a stream runs in its order and whenever the test says, so a copy may be late by any number of
steps. Fresh memory holds ``GARBAGE``, as ``torch.empty`` may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

GARBAGE = float("nan")


class Event:
    """Has happened once its last record has run; one that was never recorded has."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last: list[bool] = [True]

    def record(self) -> None:
        ran = self._last = [False]
        self._device.enqueue(lambda: ran.__setitem__(0, True))

    def query(self) -> bool:
        return self._last[0]

    def ready(self) -> Callable[[], bool]:
        """Whether what is recorded by now has run."""
        ran = self._last
        return lambda: ran[0]


class Stream:
    """A queue of work; ``wait_event`` holds up what is enqueued after it."""

    def __init__(self) -> None:
        self.work: deque[Callable[[], None] | tuple[Callable[[], bool]]] = deque()

    def wait_event(self, event: Event) -> None:
        self.work.append((event.ready(),))

    def run(self, pieces: int) -> None:
        """Runs at most ``pieces`` pieces of work, and stops before an event that is not ready."""
        for _ in range(pieces):
            if not self.work:
                return
            piece = self.work[0]
            if isinstance(piece, tuple):
                if not piece[0]():
                    return
            else:
                piece()
            self.work.popleft()


class Memory:
    """Memory of the device, or pinned memory of the host, that the device writes in the order of a stream."""

    def __init__(self, device: Device, values: torch.Tensor) -> None:
        self._device, self.values = device, values
        self.dtype, self.shape = values.dtype, values.shape

    def __setitem__(self, place: Any, values: torch.Tensor) -> None:
        held = values.clone()
        self._device.enqueue(lambda: self.values.__setitem__(place, held))

    def __getitem__(self, place: Any) -> Any:
        """A row that the device may write (an int), or what the host reads of it now (a tensor of places)."""
        return Memory(self._device, self.values[place]) if isinstance(place, int) else self.values[place]

    def copy_(self, source: Memory, non_blocking: bool) -> None:
        assert non_blocking
        self._device.enqueue(lambda: self.values.copy_(source.values))


class Device:
    """Takes the place of ``torch`` in a module: its streams and events, and memory that is not cleared."""

    def __init__(self) -> None:
        self.forward, self.copies = Stream(), Stream()
        self._current = self.forward

    def enqueue(self, piece: Callable[[], None]) -> None:
        self._current.work.append(piece)

    def run(self, pieces: tuple[int, int]) -> None:
        self.forward.run(pieces[0])
        self.copies.run(pieces[1])

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, **where: Any) -> Memory:
        return Memory(self, torch.full(shape, GARBAGE if dtype.is_floating_point else -1, dtype=dtype))

    def get_device_module(self, device: Any) -> Device:
        return self

    def Event(self) -> Event:  # noqa: N802
        return Event(self)

    def Stream(self) -> Stream:  # noqa: N802
        return self.copies

    @contextmanager
    def stream(self, chosen: Stream) -> Iterator[None]:
        self._current = chosen
        yield
        self._current = self.forward
