"""Batch formation by engine. A new one is a file with ``receive`` and ``step``, and a line in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from dspark_simulator.engines import sglang, vllm

EngineName = Literal["sglang", "vllm"]


class Rules(NamedTuple):
    """What differs between engines.

    Attributes:
        receive: What becomes of a request on arrival.
        step: Forms and runs the next step; compiled.
    """

    receive: Callable[[int, int, int, int], tuple[int, int, int]]
    step: Callable[..., tuple[float, int]]


ENGINES: dict[EngineName, Rules] = {
    "sglang": Rules(sglang.receive, sglang.step),
    "vllm": Rules(vllm.receive, vllm.step),
}
