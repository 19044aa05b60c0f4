"""Mooncake's traces with prefix hashes."""

from __future__ import annotations

from dspark_simulator.workloads.traces.table import Table


class Mooncake(Table):
    """JSON lines with milliseconds and, for each block of 512 prompt tokens, the hash of the prompt up to its end."""

    name = "mooncake"
    title = "Mooncake JSON lines"
    arrival, prompt, output, hashes = "timestamp", "input_length", "output_length", "hash_ids"
    unit = "ms"
    block_tokens = 512
