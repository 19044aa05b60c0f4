"""Published SPS tables of SGLang, and live step times."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from dspark_tuning.measuring.validate.published_rows import CsvLine, Key, PublishedRow, csv_rows, key_of, sweep_row
from sglang_dspark.policy.belief import MAX_TOKENS, SpsTable

TABLE_COLUMNS = ("model", "hardware", "batch_tokens")
# Either column suffices; values of a table with both may be rounded.
TABLE_VALUES = ("steps_per_s", "step_time_ms")
ROUNDED = 0.05
# Relative standard deviation of the accepted lengths of the paper over its data sets: the live steps decode other text
# than the rows to predict.
OTHER_TEXT = 0.165
STEP_COLUMNS = ("model", "hardware", "arm", "running_requests", "step_time_ms")


def read_tables(paths: Iterable[Path]) -> dict[Key, SpsTable]:
    """Read SPS tables by deployment: whole steps by tokens, repeated points as their median.

    Raises:
        InputError: An unreadable file, or an invalid value.
    """
    points: defaultdict[Key, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        for line in csv_rows(path, *((*TABLE_COLUMNS, value) for value in TABLE_VALUES)):
            tokens = line.whole("batch_tokens", 1, MAX_TOKENS)
            if tokens is None:
                raise line.wrong("batch_tokens", "give the tokens of the step")
            points[key_of(line)][tokens].append(_steps_per_s(line))
    return {
        key: SpsTable(
            sample_batch_tokens=tuple(sorted(rates)),
            sample_steps_per_sec=tuple(median(rates[tokens]) for tokens in sorted(rates)),
            max_batch_tokens=max(rates),
        )
        for key, rates in points.items()
    }


def read_live_steps(paths: Iterable[Path]) -> list[PublishedRow]:
    """Read mean live step times by running requests, as rows without a throughput.

    ``accept_length_range`` may be a number or a range such as 2.7-3.3, whose half width is the error of its middle.

    Raises:
        InputError: An unreadable file, or an invalid value.
    """
    rows = [_live_step(line) for path in paths for line in csv_rows(path, STEP_COLUMNS)]
    # All rows decode the same text, so their errors are not independent.
    least = OTHER_TEXT * math.sqrt(len(rows))
    return [row._replace(accepted_spread=max(row.accepted_spread or 0.0, least)) for row in rows]


def _live_step(line: CsvLine) -> PublishedRow:
    step_ms = line.real("step_time_ms")
    if step_ms is None:
        raise line.wrong("step_time_ms", "give the mean time of a step")
    row = sweep_row(line, "running_requests")._replace(step_s=step_ms / 1000, context_tokens=0)
    text = line.text("accept_length_range")
    if not text:
        return row
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*-\s*(\d+(?:\.\d+)?))?", text)
    low, high = (float(numbers[1]), float(numbers[2] or numbers[1])) if numbers else (0.0, 0.0)
    if not 1 <= low <= high:
        raise line.wrong("accept_length_range", "give a length of 1 or more, or a range of two")
    middle = (low + high) / 2
    return row._replace(accepted_length=middle, accepted_spread=(high - low) / 2 / middle)


def _steps_per_s(line: CsvLine) -> float:
    rate, step_ms = (line.real(column) for column in TABLE_VALUES)
    if step_ms is None:
        if rate is None:
            raise line.wrong("steps_per_s", "give it, or step_time_ms")
        return rate
    if rate is not None and abs(rate * step_ms / 1000 - 1) > ROUNDED:
        raise line.wrong("step_time_ms", f"give {1000 / rate:.4g}, as steps_per_s has it, or leave one of the two out")
    return 1000 / step_ms if rate is None else rate
