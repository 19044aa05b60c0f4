"""A trace file as tables or records, whatever its container: compression, CSV, JSON lines, JSON, Parquet."""

from __future__ import annotations

import csv
import io
import json
import lzma
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from sglang_dspark.errors import InputError

Container = Literal["csv", "jsonl", "json", "parquet"]

_HEAD = 1 << 16
_BLOCK = 1 << 22
_ARROW_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_DELIMITERS = ",\t;|"


class Source:
    """A trace file; its content decides compression, container and delimiter.

    Attributes:
        container: ``jsonl`` has a flat object a line, ``json`` anything else that JSON holds.
        names: Columns of a table, keys of the first record; numbers from 1 for a table without a header.
    """

    def __init__(self, path: Path, delimiter: str | None = None) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                start = file.read(8)
            self.container: Container = "parquet" if start[:4] == b"PAR1" else self._container_of_text()
            self._delimiter = delimiter or ("," if self.container != "csv" else _delimiter(self._head))
            self.names: list[str] = self._names()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror or error}); give the path of a trace file"
            ) from error
        except (EOFError, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException) as error:
            raise self._broken(error) from error

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The columns of the file in blocks of rows; a column of text stays text.

        Raises:
            InputError: A column is missing, or the file is damaged.
        """
        for name in columns:
            if name not in self.names and _nested(self.first, name) is None:
                present = shorten(", ".join(self.names), 200) or "an empty file"
                raise InputError(f"{self.path}: column {name} is missing (found {present})")
        wanted = list(dict.fromkeys(columns))
        read = {"csv": self._csv, "jsonl": self._jsonl, "json": self._json, "parquet": self._parquet}[self.container]
        try:
            yield from read(wanted)
        except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException) as error:
            raise self._broken(error) from error

    def records(self) -> Iterator[dict[str, Any]]:
        """The objects of a JSON file, one at a time: those of its list, or those that follow each other."""
        try:
            yield from self._records()
        except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException) as error:
            raise self._broken(error) from error

    @cached_property
    def first(self) -> dict[str, Any]:
        """First record of a JSON file; empty for a table or where there is none."""
        if self.container not in ("json", "jsonl"):
            return {}
        return next(self.records(), {})

    @property
    def has_header(self) -> bool:
        return self.names != [str(place) for place in range(1, len(self.names) + 1)]

    def _container_of_text(self) -> Container:
        text = self._head.lstrip()
        if text[:1] not in ("{", "["):
            return "csv"
        line = text.partition("\n")[0]
        try:
            record = json.loads(line)
        except ValueError:
            return "json"
        if not isinstance(record, dict) or "input_lens" in record:
            return "json"
        return "jsonl" if all(_ids(value) for value in record.values() if isinstance(value, list)) else "json"

    @cached_property
    def _head(self) -> str:
        with self._open() as stream:
            data = stream.read(_HEAD)
        try:
            # The block may end within a character.
            return data.decode("utf-8-sig") if len(data) < _HEAD else data.decode("utf-8-sig", "ignore")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}: is no UTF-8 text ({error.reason}); give a CSV, JSON or Parquet file"
            ) from error

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """The decompressed bytes."""
        with self.path.open("rb") as file:
            start = file.read(6)
            file.seek(0)
            codec = next((name for magic, name in _ARROW_CODECS.items() if start.startswith(magic)), None)
            if codec is not None:
                with pa.CompressedInputStream(pa.PythonFile(file), codec) as stream:
                    yield stream
            elif start == b"\xfd7zXZ\x00":
                with lzma.open(file) as stream:
                    yield cast(BinaryIO, stream)
            elif start.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(file) as archive:
                    names = archive.namelist()
                    if len(names) != 1:
                        raise InputError(f"{self.path}: holds {len(names)} files; give one of them")
                    with archive.open(names[0]) as stream:
                        yield cast(BinaryIO, stream)
            else:
                yield file

    def _names(self) -> list[str]:
        if self.container == "parquet":
            return list(pa.parquet.read_schema(self.path).names)
        if self.container != "csv":
            return list(self.first)
        first = [name.strip() for name in next(csv.reader(io.StringIO(self._head), delimiter=self._delimiter), [])]
        # Times and lengths are numbers; names are not.
        headed = not any(_is_number(name) for name in first)
        return first if headed else [str(place) for place in range(1, len(first) + 1)]

    def _csv(self, columns: list[str]) -> Iterator[pa.Table]:
        invalid: list[Any] = []

        def refuse(row: Any) -> str:
            invalid.append(row)
            return "error"

        read = pa.csv.ReadOptions(
            block_size=_BLOCK, use_threads=False, column_names=self.names, skip_rows=1 if self.has_header else 0
        )
        parse = pa.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=False, invalid_row_handler=refuse)
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=columns,
            strings_can_be_null=True,
            null_values=["", "NaN", "nan", "null", "None", "NULL"],
        )
        with self._open() as stream:
            try:
                for batch in pa.csv.open_csv(stream, read, parse, convert):
                    yield pa.Table.from_batches([batch])
            except pa.ArrowInvalid as error:
                if invalid:
                    row = invalid[0]
                    where = f"{self.path}: " + (f"line {row.number}: " if row.number else "")
                    raise InputError(
                        f"{where}{row.actual_columns} fields under {row.expected_columns} columns "
                        f"({shorten(row.text, 60)}); complete the row"
                    ) from error
                if "Empty CSV" in str(error):
                    return
                raise

    def _jsonl(self, columns: list[str]) -> Iterator[pa.Table]:
        parse = pa.json.ParseOptions(explicit_schema=_schema(self.first, columns), unexpected_field_behavior="ignore")
        read = pa.json.ReadOptions(block_size=_BLOCK, use_threads=False)
        with self._open() as stream:
            for batch in pa.json.open_json(stream, read, parse):
                yield pa.table({name: _column(batch, name) for name in columns})

    def _json(self, columns: list[str]) -> Iterator[pa.Table]:
        schema = pa.schema([(name, _type(_nested(self.first, name))) for name in columns])
        for some in _chunks(self._records(), 4096):
            arrays = [_array([_nested(record, field.name) for record in some], field.type) for field in schema]
            yield pa.table(arrays, schema=schema)

    def _parquet(self, columns: list[str]) -> Iterator[pa.Table]:
        for batch in pa.parquet.ParquetFile(self.path).iter_batches(columns=columns):
            yield pa.Table.from_batches([batch])

    def _records(self) -> Iterator[dict[str, Any]]:
        decoder = json.JSONDecoder()
        with self._open() as raw:
            text = io.TextIOWrapper(raw, "utf-8-sig")
            rest, size, ended = "", _BLOCK, False
            while not ended:
                block = text.read(size)
                ended = not block
                rest += block
                place = 0
                while True:
                    place = _past(rest, place, " \t\r\n,[]")
                    try:
                        record, place = decoder.raw_decode(rest, place)
                    except ValueError as error:
                        if ended and place < len(rest):
                            raise InputError(
                                f"{self.path}: is no JSON ({error}); mend or cut the file there"
                            ) from error
                        break
                    if not isinstance(record, dict):
                        raise InputError(f"{self.path}: holds {shorten(repr(record), 40)} where an object is expected")
                    yield record
                # A long record is decoded again only once it could be whole.
                rest, size = rest[place:], max(_BLOCK, len(rest) - place)
            text.detach()

    def _broken(self, error: BaseException) -> InputError:
        return InputError(f"{self.path}: is damaged or no trace ({shorten(str(error), 160)}); give a whole file")


def _delimiter(head: str) -> str:
    """The delimiter that gives the first lines the most fields, the same number in each."""
    lines = head.splitlines()[:20]
    lines = lines[:-1] if len(head) == _HEAD and len(lines) > 1 else lines
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        counts = {len(row) for row in csv.reader(lines[:3], delimiter=delimiter) if row}
        if len(counts) == 1 and (fields := counts.pop()) > most:
            best, most = delimiter, fields
    return best


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ids(value: list[Any]) -> bool:
    """Whether a list may be prefix hashes, which are numbers or short texts."""
    return all(isinstance(item, int | str) for item in value)


def _nested(record: Any, name: str) -> Any:
    """The value at a key, or at keys joined by dots; None where there is none."""
    if isinstance(record, dict) and name in record:
        return record[name]
    for key in name.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _type(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int | float):
        return pa.float64()
    if isinstance(value, list):
        if any(isinstance(item, str) for item in value):
            return pa.list_(pa.string())
        return pa.list_(pa.uint64() if any(item >= 1 << 63 for item in value) else pa.int64())
    return pa.string()


def _schema(first: dict[str, Any], columns: list[str]) -> pa.Schema:
    """Types of the columns by the first record; a name with dots is a field of structs."""
    fields: dict[str, Any] = {}
    for name in columns:
        place, keys = fields, [name] if name in first else name.split(".")
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = _type(_nested(first, name))
    return pa.schema(list(_struct(fields)))


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.float64():
        # Arrow refuses integers beyond 2**53, as nanoseconds since 1970 are.
        values = [float(value) if isinstance(value, int) else value for value in values]
    return pa.array(values, kind)


def _struct(fields: dict[str, Any]) -> pa.DataType:
    return pa.struct([(key, _struct(value) if isinstance(value, dict) else value) for key, value in fields.items()])


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *keys = name.split(".")
    return pa.compute.struct_field(batch.column(first), keys)


def _past(text: str, place: int, skipped: str) -> int:
    while place < len(text) and text[place] in skipped:
        place += 1
    return place


def _chunks(records: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(records, size)):
        yield some
