"""Azure's LLM inference traces of 2023 and 2024."""

from __future__ import annotations

from dspark_simulator.workloads.traces.table import Table


class Azure(Table):
    """CSV of a row a request, with dates (2024 with zones) or, as rewritten by others, seconds."""

    name = "azure"
    title = "Azure table"
    arrival, prompt, output = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
