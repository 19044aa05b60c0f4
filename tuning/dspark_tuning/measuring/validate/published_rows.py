"""Published serving results: one row a model, hardware, arm and concurrency.

A file has a column for each flag of the server, or states the flags in the texts of model, hardware and arm, as sweeps
of decoding are published ("DSpark block 5", "TP4/EP2", "compact + SPS table; 48 slots; prefill-decode-interval 4").
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
# What a sweep of decoding has instead: flags are in the texts.
SWEEP_COLUMNS = ("model", "hardware", "arm", "concurrency", "aggregate_tok_s")
# The modes of DSPARK by the words for them, the first that a text has. Compact mode without a table verifies all.
ARM_WORDS: tuple[tuple[str, Arm], ...] = (
    (r"no.?spec|target only|without speculation", "nospec"),
    (r"static|verify.all|no SPS table|flat SPS", "fixed"),
    (r"compact|cap.accept|adaptive", "adaptive"),
    (r"fixed", "fixed"),
)
VALID = {"": True, "1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class Key(NamedTuple):
    """A deployment: what is calibrated by itself."""

    model: str
    hardware: str
    tp: int | None


class PublishedRow(NamedTuple):
    """One published result; None is a blank field.

    Attributes:
        model: Without its owner.
        hardware: Of one GPU.
        gamma: Drafts a block; 0 without speculation.
        throughput_tok_s: Output tokens per second of the whole run.
        tpot_s: Median over requests, or the mean where ``tpot_is_mean``.
        accepted_length: Tokens a round, the target's own included.
        valid: The text was right; otherwise acceptance, and with it the throughput, means nothing.
        engine: ``sglang`` or ``vllm``.
        spread: Published spread of repeats, a fraction.
        where: Its file and line, for messages.
        max_running_requests, prefill_decode_interval: Server flags.
        context_tokens: Prompt tokens that were in the context when decoding was timed.
        step_s: Mean time of a decode step.
        accepted_spread: Relative half width of the range that ``accepted_length`` is the middle of.
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
        return Key(self.model, self.hardware, self.tp)

    @property
    def label(self) -> str:
        """The arm as a person names it."""
        return f"fixed {'?' if self.gamma is None else self.gamma}" if self.arm == "fixed" else self.arm


def read(paths: Iterable[Path]) -> list[PublishedRow]:
    """The rows of all files, in order.

    Raises:
        InputError: A file that cannot be read, a column that is missing, or a value that is wrong.
    """
    return [row for path in paths for row in _read_one(path)]


def _read_one(path: Path) -> list[PublishedRow]:
    lines = csv_rows(path, COLUMNS, SWEEP_COLUMNS)
    return [sweep_row(line) if "aggregate_tok_s" in line.cells else _row(line) for line in lines]


def csv_rows(path: Path, *forms: tuple[str, ...]) -> list[CsvLine]:
    """The lines of a CSV file.

    Args:
        forms: Columns that the file must have, in one form or another; messages name those of the first.

    Raises:
        InputError: Not readable, without the columns of any form, or without lines.
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
    return re.sub(r"^\d+x\s*", "", hardware)


def key_of(line: CsvLine) -> Key:
    """The deployment of a line: names up to the first comma or plus sign, and tp from its column or "TP4".

    Raises:
        InputError: No model or hardware, or a tp that is not a number.
    """
    model, hardware = (re.split(r"[,+]", line.text(column))[0].strip() for column in ("model", "hardware"))
    for column, name in (("model", model), ("hardware", hardware)):
        if not name:
            raise line.wrong(column, "name it")
    tp = _number(r"\bTP\s?(\d+)", line.text("hardware")) if "tp" not in line.cells else line.whole("tp", 1, 64)
    return Key(model.rsplit("/", 1)[-1], gpu(hardware), tp)


def sweep_row(line: CsvLine, clients: str = "concurrency") -> PublishedRow:
    """A line of a sweep of decoding on SGLang, its flags in its texts.

    Args:
        clients: The column of the requests that run together.

    Raises:
        InputError: A value that is wrong, or an arm in other words.
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
    found = re.search(pattern, text, re.IGNORECASE)
    return None if found is None else int(found[1])


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
