"""Tables with a request in each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from dspark_simulator.workloads.traces.base import Batch, TraceFormat
from dspark_simulator.workloads.traces.settings import TimeUnit
from dspark_simulator.workloads.traces.values import Clock, tokens


class Table(TraceFormat):
    """A table whose columns are known by name.

    Attributes:
        arrival, prompt, output: Names of the columns.
        hashes: Column of the prefix hashes of JSON lines, where the file has it.
        unit: Unit of arrival times that are numbers; None for the one that their magnitude says.
        fails: A request without output failed; otherwise its length counts as 1.
    """

    arrival: ClassVar[str]
    prompt: ClassVar[str]
    output: ClassVar[str]
    hashes: ClassVar[str] = ""
    unit: ClassVar[TimeUnit | None] = None
    fails: ClassVar[bool] = False

    @classmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        return {cls.arrival, cls.prompt, cls.output} <= set(names)

    @classmethod
    def lacks(cls, names: Sequence[str]) -> str:
        missing = [name for name in (cls.arrival, cls.prompt, cls.output) if name not in names]
        return missing[0] if len(missing) == 1 else ""

    def columns(self) -> dict[str, str]:
        """Column of the file by what it holds; those of the settings take precedence."""
        return {"arrival": self.arrival, "prompt": self.prompt, "output": self.output} | self.settings.columns

    def batches(self, extra: Sequence[str]) -> Iterator[Batch]:
        where, columns = str(self.source.path), self.columns()
        hashes = self.hashes if self.hashes in self.source.names else ""
        arrival = columns.get("arrival")
        clock = Clock(where, arrival or "", self.settings.time_unit or self.unit)
        row = 1
        for table in self.source.tables([*columns.values(), *([hashes] if hashes else []), *extra]):
            prompt = tokens(table[columns["prompt"]], where, columns["prompt"], row)
            output = tokens(table[columns["output"]], where, columns["output"], row)
            cached = columns.get("cached")
            yield Batch(
                prompt,
                output,
                None if arrival is None else clock.seconds(table[arrival], row),
                None if cached is None else tokens(table[cached], where, cached, row),
                table[hashes] if hashes else None,
                table[columns["class"]] if "class" in columns else None,
                output == 0 if self.fails else np.zeros(len(output), np.bool_),
                table,
            )
            row += len(table)
        self.notes = [clock.kind] if clock.kind else []
