"""``run.parquet``: the steps of a running server, as ``dspark record`` writes and ``dspark calibrate`` reads them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dspark_simulator.wrong_kind import check_kind
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.serving.step_schema import RECORDING

KEY: Final = b"dspark"


class About(BaseModel):
    """The recorded server, kept as JSON under the key ``dspark`` of the file's metadata.

    Attributes:
        source: ``sglang`` is a stock server, ``dspark`` one with our plugin.
        engine: Version of SGLang.
        verify_mode: SGLang's (``static``, ``cap-accept``, ``compact``).
        dp_size: Data-parallel ranks. Each has segments of its own.
        max_total_num_tokens: KV tokens of a rank.
        classes: What ``slo_class`` points into.
        sts_temperatures: By position, what the server had in force; recorded confidences are without them.
        lost: Steps that are known to be missing, or the most that can be where the server does not say.
        partial: Sentences, one for each thing that the server does not record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Literal["sglang", "dspark"]
    engine: str
    model: str
    draft_model: str
    gamma: Annotated[int, Field(ge=1, le=16)]
    verify_mode: Literal["static", "cap-accept", "compact"]
    tp_size: Annotated[int, Field(ge=1)] = 1
    dp_size: Annotated[int, Field(ge=1)] = 1
    max_running_requests: int | None = None
    max_total_num_tokens: int | None = None
    chunked_prefill_size: int | None = None
    max_prefill_tokens: int | None = None
    page_size: int | None = None
    disable_overlap: bool = False
    classes: tuple[str, ...] = ()
    sts_temperatures: tuple[float, ...] = ()
    lost: Annotated[int, Field(ge=0)] = 0
    partial: tuple[str, ...] = ()


class Record(NamedTuple):
    """One or several recordings of one deployment.

    Attributes:
        steps: ``RECORDING`` and an int32 column ``run``, the recording's place in ``abouts``; segments are distinct.
        abouts: Metadata by recording.
    """

    steps: pa.Table
    abouts: tuple[About, ...]

    @property
    def gamma(self) -> int:
        return self.abouts[0].gamma


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end, before any time is spent; creates nothing.

    Raises:
        InputError: It is a folder, or the folder that it would be in is not one that can be written.
    """
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"out: {path}: cannot be written; choose another file")


class Writer:
    """Appends steps to a file that appears when it is closed.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another file") from error
        os.close(descriptor)
        self._partial = Path(name)
        self._writer = pq.ParquetWriter(name, RECORDING, compression="zstd")

    def append(self, steps: pa.Table) -> None:
        """Append steps, in order: a table of ``RECORDING``."""
        try:
            self._writer.write_table(steps)
        except OSError as error:
            raise self._refusal(error) from error

    def close(self, about: About) -> None:
        """End the file and move it to its path."""
        try:
            self._writer.add_key_value_metadata({KEY: about.model_dump_json().encode()})
            self._writer.close()
            # mkstemp makes the file private; a result is as readable as any other file of the user.
            umask = os.umask(0)
            os.umask(umask)
            self._partial.chmod(0o666 & ~umask)
            self._partial.replace(self._path)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> InputError:
        return InputError(
            f"{self._path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._partial.unlink(missing_ok=True)


def write(path: Path, steps: pa.Table, about: About) -> None:
    """Write a whole recording at once.

    Raises:
        InputError: The file cannot be written.
    """
    with Writer(path) as writer:
        writer.append(steps)
        writer.close(about)


def read(paths: Sequence[Path]) -> Record:
    """Read recordings of one deployment.

    Raises:
        InputError: A file is not a recording, is empty, or is of another model or block than the first.
    """
    tables: list[pa.Table] = []
    abouts: list[About] = []
    segments = 0
    for run, path in enumerate(paths):
        steps, about = _read(path)
        if abouts:
            for field in ("model", "draft_model", "gamma", "tp_size"):
                ours, first = getattr(about, field), getattr(abouts[0], field)
                if ours != first:
                    raise InputError(
                        f"{path}: {field}: {ours!r} differs from {first!r} of {paths[0]}; give recordings of one server"
                    )
        segment = steps["segment"].to_numpy()
        moved = pa.array(segment - segment.min() + segments, pa.int32())
        segments += int(segment.max() - segment.min()) + 1
        steps = steps.set_column(0, RECORDING.field("segment"), moved)
        tables.append(steps.append_column("run", pa.array(np.full(len(steps), run, np.int32))))
        abouts.append(about)
    return Record(pa.concat_tables(tables), tuple(abouts))


def _read(path: Path) -> tuple[pa.Table, About]:
    check_kind(path, "recording")
    try:
        with pq.ParquetFile(path) as file:
            text = (file.metadata.metadata or {}).get(KEY)
            steps = file.read().replace_schema_metadata(None)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give what `dspark record` wrote") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file ({error}); give what `dspark record` wrote") from error
    if text is None:
        raise InputError(f"{path}: no server metadata; give what `dspark record` wrote")
    try:
        about = About.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(error, path) from error
    if not steps.schema.equals(RECORDING):
        fields = {field.name: field for field in steps.schema}
        wrong = next((field.name for field in RECORDING if fields.get(field.name) != field), "columns")
        raise InputError(f"{path}: {wrong}: not as this version has it; record again")
    if not len(steps):
        raise InputError(f"{path}: holds no steps; record while the server answers requests")
    return steps, about
