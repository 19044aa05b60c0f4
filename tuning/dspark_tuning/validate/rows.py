"""Published serving results: one row a model, hardware, arm and concurrency."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from sglang_dspark.errors import InputError
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS

Name = TypeVar("Name", bound=str)
Arm = Literal["nospec", "fixed", "adaptive"]
Engine = Literal["sglang", "vllm"]
ARMS: tuple[Arm, ...] = ("nospec", "fixed", "adaptive")
ENGINES: tuple[Engine, ...] = ("vllm", "sglang")
COLUMNS = (
    "model",
    "hardware",
    "tp",
    "capture_tokens",
    "output_tokens",
    "arm",
    "gamma",
    "concurrency",
    "throughput_tok_s",
)
VALID = {"": True, "1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class Key(NamedTuple):
    """A deployment: what is calibrated by itself."""

    model: str
    hardware: str
    tp: int | None


class Row(NamedTuple):
    """One published result; None is a blank field.

    Attributes:
        model: Without its owner.
        hardware: Of one GPU.
        gamma: Drafts a block; 0 without speculation.
        throughput_tok_s: Output tokens per second of the whole run.
        tpot_s: Median over requests.
        accepted_length: Tokens a round, the target's own included.
        valid: The text was right; otherwise acceptance, and with it the throughput, means nothing.
        engine: ``sglang`` or ``vllm``.
        spread: Published spread of repeats, a fraction.
        where: Its file and line, for messages.
    """

    model: str
    hardware: str
    tp: int | None
    capture_tokens: int | None
    output_tokens: int | None
    arm: Arm
    gamma: int | None
    concurrency: int
    throughput_tok_s: float | None
    tpot_s: float | None
    accepted_length: float | None
    valid: bool
    engine: Engine
    spread: float | None
    where: str = ""

    @property
    def key(self) -> Key:
        return Key(self.model, self.hardware, self.tp)

    @property
    def label(self) -> str:
        """The arm as a person names it."""
        return f"fixed {'?' if self.gamma is None else self.gamma}" if self.arm == "fixed" else self.arm


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of all files, in order.

    Raises:
        InputError: A file that cannot be read, a column that is missing, or a value that is wrong.
    """
    return [row for path in paths for row in _read_one(path)]


def _read_one(path: Path) -> list[Row]:
    lines = csv_rows(path, COLUMNS)
    if not lines:
        raise InputError(f"{path}: holds no rows; give at least one measurement")
    return [_row(Cells(path, number, line)) for number, line in lines]


def csv_rows(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers.

    Raises:
        InputError: Not readable, or without one of the columns ``needed``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            for column in needed:
                if column not in columns:
                    raise InputError(f"{path}: {column}: no such column; the file needs {', '.join(needed)}")
            return [(reader.line_num, {k: v or "" for k, v in line.items() if k}) for line in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not CSV text ({error}); export it as CSV in UTF-8") from error


class Cells(NamedTuple):
    """A line of a file, whose cells are numbers or blank."""

    path: Path
    number: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def real(self, column: str) -> float | None:
        """A number above 0, or None where blank."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise self.wrong(column, "give a number above 0, or leave it blank")
        return value

    def whole(self, column: str, least: int = 1, most: int = 10**9) -> int | None:
        """A whole number, or None where blank."""
        text = self.text(column)
        if not text:
            return None
        if not re.fullmatch(r"\d{1,9}(\.0*)?", text) or not least <= float(text) <= most:
            raise self.wrong(column, f"give a whole number from {least} to {most}, or leave it blank")
        return int(float(text))

    def one_of(self, column: str, names: tuple[Name, ...]) -> Name:
        """One of ``names``, whatever its case."""
        for name in names:
            if name == self.text(column).lower():
                return name
        raise self.wrong(column, f"give one of {', '.join(names)}")

    def wrong(self, column: str, remedy: str) -> InputError:
        return InputError(f"{self.where()}: {column}: {self.text(column)!r} is not valid; {remedy}")

    def where(self) -> str:
        return f"{self.path}: line {self.number}"


def gpu(hardware: str) -> str:
    """``4xB300`` and ``B300`` are the same hardware; how many is ``tp``."""
    return re.sub(r"^\d+x", "", hardware)


def _row(line: Cells) -> Row:
    arm = line.one_of("arm", ARMS)
    concurrency = line.whole("concurrency", 1, MAX_REQUESTS)
    if concurrency is None:
        raise line.wrong("concurrency", "give the number of clients")
    for column in ("model", "hardware"):
        if not line.text(column):
            raise line.wrong(column, "name it")
    engine = line.one_of("engine", ENGINES) if line.text("engine") else ENGINES[0]
    gamma = line.whole("gamma", 0, MAX_GAMMA)
    if arm != "nospec" and gamma == 0:
        raise line.wrong("gamma", f"an arm that drafts has 1 to {MAX_GAMMA}; correct it, or leave it blank")
    valid = VALID.get(line.text("output_valid").lower())
    if valid is None:
        raise line.wrong("output_valid", "give 1 or 0, or leave it blank")
    tpot_ms = line.real("median_tpot_ms")
    spread = re.search(r"spread (\d+(?:\.\d+)?)%", line.text("note"))
    return Row(
        model=line.text("model").rsplit("/", 1)[-1],
        hardware=gpu(line.text("hardware")),
        tp=line.whole("tp", 1, 64),
        capture_tokens=line.whole("capture_tokens"),
        output_tokens=line.whole("output_tokens"),
        arm=arm,
        gamma=0 if arm == "nospec" else gamma,
        concurrency=concurrency,
        throughput_tok_s=line.real("throughput_tok_s"),
        tpot_s=None if tpot_ms is None else tpot_ms / 1000,
        accepted_length=line.real("accept_length"),
        valid=valid,
        engine=engine,
        spread=None if spread is None else float(spread[1]) / 100,
        where=line.where(),
    )
