"""Batch formation by engine. A new one is a file with a compiled ``step`` and a line in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from dspark_simulator.engines import sglang, vllm

EngineName = Literal["sglang", "vllm"]
Step = Callable[..., tuple[float, int]]

ENGINES: dict[str, Any] = {"sglang": sglang.step, "vllm": vllm.step}
