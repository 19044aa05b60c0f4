"""BurstGPT traces, with and without sessions (v2 and v1)."""

from __future__ import annotations

from dspark_simulator.workloads.traces.table import Table


class BurstGpt(Table):
    """CSV with seconds since the start of the recording; a request without response tokens failed."""

    name = "burstgpt"
    title = "BurstGPT table"
    arrival, prompt, output = "Timestamp", "Request tokens", "Response tokens"
    unit = "s"
    fails = True
