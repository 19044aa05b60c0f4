"""Batch formation by engine. A new engine is a file here that defines ``RULES``, and an entry of ``ENGINES``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from dspark_simulator.engines import sglang, vllm
from dspark_simulator.engines.base import CaptureFlags, Rules
from sglang_dspark.shapes.registry import KeyOf

ENGINES: Mapping[str, Rules] = {"sglang": sglang.RULES, "vllm": vllm.RULES}

EngineName = Annotated[str, KeyOf(ENGINES)]

__all__ = ["ENGINES", "CaptureFlags", "EngineName", "Rules"]
