"""Refuse a file that is given in the place of another kind, by one line that says what it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dspark_simulator.file_kinds import check_fields, title
from dspark_simulator.workloads.traces.formats import FORMATS
from dspark_simulator.workloads.traces.source import Source
from sglang_dspark.errors import InputError


def check_kind(path: Path, wanted: str) -> None:
    """Refuse a file that is evidently of another kind; whatever else is wrong with it is the reader's matter.

    Args:
        path: A file, which need not exist.
        wanted: Name in ``KINDS``, or ``recording``.

    Raises:
        InputError: It is a file of another kind; the message says which, and which command takes it.
    """
    if path.is_file() and not check_fields(path, wanted) and (said := _rows(path, wanted)):
        raise InputError(f"{path}: is {said}")


def _rows(path: Path, wanted: str) -> str:
    """What a file of rows is and who takes it, where that is not a ``wanted`` one; otherwise empty."""
    takes = f"not {title(wanted)}; `dspark simulate`, `dspark tune` and `dspark trace describe` take it as their trace"
    try:
        source = Source(path)
        if source.container == "parquet" and any(b"dspark" in key for key in pq.read_metadata(path).metadata or {}):
            own = "what `dspark record` or `dspark load` wrote"
            return "" if wanted == "recording" else f"{own}, not {title(wanted)}; `dspark calibrate` takes it"
    except (InputError, OSError, pa.ArrowException):
        return ""
    for member in FORMATS.values():
        if member.recognises(source.names, source.first):
            return f"a request trace ({member.title}), {takes}"
    if wanted != "recording" and (source.container in ("json", "jsonl") or ":" in "".join(source.names)):
        # Fields of a file that is only misspelled.
        return ""
    columns = ", ".join(source.names[:8])
    return f"a table of {columns}, {takes} if its columns are named" if len(source.names) > 1 else ""
