"""Tables of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any

from dspark_simulator.workloads.traces.base import Batch
from dspark_simulator.workloads.traces.table import Table
from sglang_dspark.errors import InputError


class Own(Table):
    """Any table whose columns the settings name; without an arrival column its requests need a rate."""

    name = "table"
    title = "table"

    @classmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        return False

    @classmethod
    def lacks(cls, names: Sequence[str]) -> str:
        return ""

    def columns(self) -> dict[str, str]:
        return self.settings.columns

    def batches(self, extra: Sequence[str]) -> Iterator[Batch]:
        for role in ("prompt", "output"):
            if role not in self.settings.columns:
                held = shorten(", ".join(self.source.names), 200) or "nothing"
                raise InputError(
                    f"{self.source.path}: columns: {role} is missing; name the columns that hold the lengths and "
                    f"times, as arrival=ts,prompt=in_tok,output=out_tok (the file has {held})"
                )
        return super().batches(extra)
