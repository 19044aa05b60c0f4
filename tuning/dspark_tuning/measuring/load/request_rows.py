"""``requests.parquet``: one row per request of a load, with the settings of the load as metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dspark_tuning.measuring.load.drive import Loaded
from dspark_tuning.measuring.load.request import SentRequest
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

SCHEMA: Final = pa.schema(
    [
        ("id", pa.int64()),
        ("slo_class", pa.string()),
        ("measured", pa.bool_()),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("sent_s", pa.float64()),
        ("ended_s", pa.float64()),
        ("ttft_s", pa.float64()),
        ("tpot_s", pa.float64()),
        ("chunk_s", pa.list_(pa.float64())),
        ("chunk_tokens", pa.list_(pa.int64())),
        ("rounds", pa.int64()),
        ("verify_lengths", pa.list_(pa.int64())),
        ("error", pa.string()),
    ]
)
"""Seconds are from the start of the run. ``chunk_s`` and ``chunk_tokens`` are the arrival times of tokens and their
number, ``rounds`` are verification rounds (0 without speculation), ``verify_lengths`` rounds by drafts verified."""

KEY: Final = b"dspark_load"


class SavedLoad(NamedTuple):
    """A saved load: its requests, its clients (0 for an open loop), and whether the server speculated."""

    requests: tuple[SentRequest, ...]
    clients: int
    speculative: bool


def write(path: Path, loaded: Loaded) -> None:
    """Write a load.

    Raises:
        InputError: The file cannot be written.
    """
    rows = [
        {
            "id": r.id,
            "slo_class": loaded.classes[r.slo_class].name,
            "measured": r.measured,
            "prompt_tokens": r.prompt_tokens,
            "output_tokens": r.output_tokens,
            "sent_s": r.sent_s,
            "ended_s": r.ended_s,
            "ttft_s": r.ttft_s if len(r.chunk_s) else None,
            "tpot_s": r.tpot_s if r.output_tokens > 1 else None,
            "chunk_s": r.chunk_s,
            "chunk_tokens": r.chunk_tokens,
            "rounds": r.rounds,
            "verify_lengths": r.verify_lengths,
            "error": r.error,
        }
        for r in loaded.requests
    ]
    about = {
        "clients": loaded.clients or 0,
        "speculative": loaded.server.get("speculative_algorithm") is not None,
        "model": loaded.server.get("model_path"),
        "wall_s": loaded.wall_s,
    }
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({KEY: json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> SavedLoad:
    """Read a load written by :func:`write`.

    Raises:
        InputError: Not such a file.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give what `dspark load` wrote") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file ({error}); give what `dspark load` wrote") from error
    text = (table.schema.metadata or {}).get(KEY)
    if text is None or not table.schema.remove_metadata().equals(SCHEMA):
        raise InputError(f"{path}: is not a load; give what `dspark load` wrote")
    about = json.loads(text)
    names: list[str] = []
    return SavedLoad(tuple(_request(row, names) for row in table.to_pylist()), about["clients"], about["speculative"])


def _request(row: dict[str, object], names: list[str]) -> SentRequest:
    fields = {name: row[name] for name in SentRequest._fields if name in row}
    if row["slo_class"] not in names:
        names.append(str(row["slo_class"]))
    chunks: Sequence[float] = row["chunk_s"]  # type: ignore[assignment]
    fields |= {
        "slo_class": names.index(str(row["slo_class"])),
        "chunk_s": np.array(chunks, np.float64),
        "chunk_tokens": np.array(row["chunk_tokens"], np.int64),
        "verify_lengths": tuple(row["verify_lengths"]),  # type: ignore[arg-type]
        "finished": not row["error"],
    }
    return SentRequest(**fields)  # type: ignore[arg-type]
