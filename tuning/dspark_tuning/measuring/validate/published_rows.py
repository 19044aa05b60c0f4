"""Published serving results: one row per model, hardware, arm and concurrency.

A file has a column for each server flag, or states the flags in the texts of model, hardware and arm, as in published
decoding sweeps ("DSpark block 5", "TP4/EP2", "compact + SPS table; 48 slots; prefill-decode-interval 4").
"""

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
# Columns of a decoding sweep, with the flags in the texts.
SWEEP_COLUMNS = ("model", "hardware", "arm", "concurrency", "aggregate_tok_s")
# Modes of DSPARK by their words in a text, first match. Compact mode without a table verifies every draft.
ARM_WORDS: tuple[tuple[str, Arm], ...] = (
    (r"no.?spec|target only|without speculation", "nospec"),
    (r"static|verify.all|no SPS table|flat SPS", "fixed"),
    (r"compact|cap.accept|adaptive", "adaptive"),
    (r"fixed", "fixed"),
)
VALID = {"": True, "1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class Key(NamedTuple):
    """A deployment: rows with the same key are calibrated together."""

    model: str
    hardware: str
    tp: int | None


class PublishedRow(NamedTuple):
    """One published result; None is a blank field.

    Attributes:
        model: Name of the model without its owner.
        hardware: Name of one GPU.
        gamma: Drafts per block; 0 without speculation.
        throughput_tok_s: Output tokens per second of the whole run.
        tpot_s: Median over requests, or the mean if ``tpot_is_mean``.
        accepted_length: Tokens per round, including the target's own.
        valid: Whether the generated text was correct; otherwise acceptance and throughput are meaningless.
        engine: ``sglang`` or ``vllm``.
        spread: Published spread of repeats, a fraction.
        where: File and line, for messages.
        max_running_requests, prefill_decode_interval: Server flags.
        context_tokens: Prompt tokens in the context of a decoding sweep.
        step_s: Mean time of a decode step.
        accepted_spread: Relative half width of the range whose middle is ``accepted_length``.
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
    max_running_requests: int | None = None
    prefill_decode_interval: int | None = None
    context_tokens: int | None = None
    step_s: float | None = None
    accepted_spread: float | None = None
    tpot_is_mean: bool = False

    @property
    def key(self) -> Key:
        """The deployment of the row."""
        return Key(self.model, self.hardware, self.tp)

    @property
    def label(self) -> str:
        """Name of the arm for display."""
        return f"fixed {'?' if self.gamma is None else self.gamma}" if self.arm == "fixed" else self.arm


def read(paths: Iterable[Path]) -> list[PublishedRow]:
    """Read the rows of all files, in order.

    Raises:
        InputError: An unreadable file, a missing column, or an invalid value.
    """
    return [row for path in paths for row in _read_one(path)]


def _read_one(path: Path) -> list[PublishedRow]:
    lines = csv_rows(path, COLUMNS, SWEEP_COLUMNS)
    return [sweep_row(line) if "aggregate_tok_s" in line.cells else _row(line) for line in lines]


def csv_rows(path: Path, *forms: tuple[str, ...]) -> list[CsvLine]:
    """Read the lines of a CSV file.

    Args:
        forms: Alternative sets of required columns; messages name those of the first.

    Raises:
        InputError: An unreadable file, missing columns, or no lines.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if not any(columns.issuperset(form) for form in forms):
                missing = next(column for column in forms[0] if column not in columns)
                raise InputError(f"{path}: {missing}: no such column; the file needs {', '.join(forms[0])}")
            lines = [CsvLine(path, reader.line_num, {k: v or "" for k, v in line.items() if k}) for line in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not CSV text ({error}); export it as CSV in UTF-8") from error
    if not lines:
        raise InputError(f"{path}: holds no rows; give at least one measurement")
    return lines


class CsvLine(NamedTuple):
    """A line of a CSV file, with checked access to its cells."""

    path: Path
    number: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """Text of a cell; empty where blank."""
        return self.cells.get(column, "").strip()

    def real(self, column: str) -> float | None:
        """Positive number of a cell; None where blank."""
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
        """Whole number of a cell; None where blank."""
        text = self.text(column)
        if not text:
            return None
        if not re.fullmatch(r"\d{1,9}(\.0*)?", text) or not least <= float(text) <= most:
            raise self.wrong(column, f"give a whole number from {least} to {most}, or leave it blank")
        return int(float(text))

    def one_of(self, column: str, names: tuple[Name, ...]) -> Name:
        """One of ``names``, ignoring case."""
        for name in names:
            if name == self.text(column).lower():
                return name
        raise self.wrong(column, f"give one of {', '.join(names)}")

    def wrong(self, column: str, remedy: str) -> InputError:
        """Error of an invalid cell."""
        return InputError(f"{self.where()}: {column}: {self.text(column)!r} is not valid; {remedy}")

    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}: line {self.number}"


def gpu(hardware: str) -> str:
    """Name of the hardware without a count: ``4xB300`` and ``B300`` are the same."""
    return re.sub(r"^\d+x\s*", "", hardware)


def key_of(line: CsvLine) -> Key:
    """Deployment of a line: names up to the first comma or plus sign, and tp from its column or from "TP4".

    Raises:
        InputError: No model or hardware, or an invalid tp.
    """
    model, hardware = (re.split(r"[,+]", line.text(column))[0].strip() for column in ("model", "hardware"))
    for column, name in (("model", model), ("hardware", hardware)):
        if not name:
            raise line.wrong(column, "name it")
    tp = _number(r"\bTP\s?(\d+)", line.text("hardware")) if "tp" not in line.cells else line.whole("tp", 1, 64)
    return Key(model.rsplit("/", 1)[-1], gpu(hardware), tp)


def sweep_row(line: CsvLine, clients: str = "concurrency") -> PublishedRow:
    """Row of a line of a decoding sweep on SGLang, with the flags in its texts.

    Args:
        clients: Column of the concurrency.

    Raises:
        InputError: An invalid value, or an unknown arm.
    """
    text = line.text("arm")
    arm = next((arm for words, arm in ARM_WORDS if re.search(words, text, re.IGNORECASE)), None)
    if arm is None:
        raise line.wrong("arm", "say static, compact or no speculation")
    itl_ms = line.real("mean_itl_ms")
    gamma = _number(r"\bblock (\d+)", f"{line.text('model')} {text}")
    if gamma is not None and not 1 <= gamma <= MAX_GAMMA:
        raise line.wrong("model", f"give a block of 1 to {MAX_GAMMA}")
    return PublishedRow(
        *key_of(line),
        capture_tokens=None,
        output_tokens=line.whole("output_tokens"),
        arm=arm,
        gamma=0 if arm == "nospec" else gamma,
        concurrency=_clients(line, clients),
        throughput_tok_s=line.real("aggregate_tok_s"),
        tpot_s=None if itl_ms is None else itl_ms / 1000,
        accepted_length=None,
        valid=True,
        engine="sglang",
        spread=None,
        where=line.where(),
        max_running_requests=_number(r"(\d+) slots", text),
        prefill_decode_interval=_number(r"prefill-decode-interval (\d+)", text),
        context_tokens=line.whole("context_tokens", 0),
        tpot_is_mean=True,
    )


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text, re.IGNORECASE)
    return None if match is None else int(match[1])


def _clients(line: CsvLine, column: str) -> int:
    clients = line.whole(column, 1, MAX_REQUESTS)
    if clients is None:
        raise line.wrong(column, "give the number of clients")
    return clients


def _row(line: CsvLine) -> PublishedRow:
    arm = line.one_of("arm", ARMS)
    engine = line.one_of("engine", ENGINES) if line.text("engine") else ENGINES[0]
    gamma = line.whole("gamma", 0, MAX_GAMMA)
    if arm != "nospec" and gamma == 0:
        raise line.wrong("gamma", f"an arm that drafts has 1 to {MAX_GAMMA}; correct it, or leave it blank")
    valid = VALID.get(line.text("output_valid").lower())
    if valid is None:
        raise line.wrong("output_valid", "give 1 or 0, or leave it blank")
    tpot_ms = line.real("median_tpot_ms")
    spread = re.search(r"spread (\d+(?:\.\d+)?)%", line.text("note"))
    return PublishedRow(
        *key_of(line),
        capture_tokens=line.whole("capture_tokens"),
        output_tokens=line.whole("output_tokens"),
        arm=arm,
        gamma=0 if arm == "nospec" else gamma,
        concurrency=_clients(line, "concurrency"),
        throughput_tok_s=line.real("throughput_tok_s"),
        tpot_s=None if tpot_ms is None else tpot_ms / 1000,
        accepted_length=line.real("accept_length"),
        valid=valid,
        engine=engine,
        spread=None if spread is None else float(spread[1]) / 100,
        where=line.where(),
        max_running_requests=line.whole("max_running_requests", 1, MAX_REQUESTS),
        prefill_decode_interval=line.whole("prefill_decode_interval", 0),
    )
