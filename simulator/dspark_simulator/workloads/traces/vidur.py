"""Traces in the form of the Vidur simulator."""

from __future__ import annotations

from dspark_simulator.workloads.traces.table import Table


class Vidur(Table):
    """CSV with seconds since the start."""

    name = "vidur"
    title = "Vidur table"
    arrival, prompt, output = "arrived_at", "num_prefill_tokens", "num_decode_tokens"
    unit = "s"
