"""Qwen's traces of Alibaba's Bailian service, with prefix hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dspark_simulator.workloads.traces.table import Table


class Bailian(Table):
    """JSON lines like Mooncake's, with seconds and blocks of 16 tokens."""

    name = "bailian"
    title = "Qwen Bailian JSON lines"
    arrival, prompt, output, hashes = "timestamp", "input_length", "output_length", "hash_ids"
    unit = "s"
    block_tokens = 16

    @classmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        return super().recognises(names, first) and "chat_id" in names
