"""Published cost curves: verify time by tokens in a step, draft time by requests."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

from dspark_simulator.costs.base import MAX_POINTS, GridCurve, RequestCurve, TokenCurve
from dspark_simulator.costs.curve import Measurements
from dspark_tuning.measuring.validate.published_rows import CsvLine, Key, csv_rows, key_of
from sglang_dspark.errors import InputError

COLUMNS = ("model", "hardware", "tp", "curve", "x", "kind", "cost_ms", "region")
CAPTURED = "cudagraph"


def read(path: Path) -> dict[Key, Measurements]:
    """Read the curves of a file by deployment. Samples of a part that also has medians are ignored.

    Raises:
        InputError: An unreadable file, an invalid value, or a deployment without a captured verify or a draft curve.
    """
    lines: defaultdict[Key, defaultdict[str, list[CsvLine]]] = defaultdict(lambda: defaultdict(list))
    for line in csv_rows(path, COLUMNS):
        curve = line.text("curve")
        if curve not in ("verify", "draft"):
            raise line.wrong("curve", "give verify or draft")
        part = curve if curve == "draft" else ("captured" if line.text("region") == CAPTURED else "eager")
        lines[key_of(line)][part].append(line)
    return {
        key: _measurements(path, key, {name: _points(part) for name, part in parts.items()})
        for key, parts in lines.items()
    }


def _points(lines: list[CsvLine]) -> dict[int, float]:
    """Seconds by tokens or requests, ascending."""
    medians = [line for line in lines if line.text("kind").startswith("median")]
    times: defaultdict[int, list[float]] = defaultdict(list)
    for line in medians or lines:
        x, cost_ms = line.whole("x"), line.real("cost_ms")
        if x is None or cost_ms is None:
            raise line.wrong("x" if x is None else "cost_ms", "give a number")
        times[x].append(cost_ms / 1000)
    return {x: median(repeats) for x, repeats in sorted(times.items())}


def _measurements(path: Path, key: Key, curves: dict[str, dict[int, float]]) -> Measurements:
    for part in ("captured", "draft"):
        if part not in curves:
            raise InputError(f"{path}: curve: {key.model} on {key.hardware} has no {part} points; add them")
    eager = curves.get("eager")
    if eager is not None and len(eager) > MAX_POINTS:
        raise InputError(f"{path}: curve: {len(eager)} eager points; give at most {MAX_POINTS}")
    captured, draft = curves["captured"], curves["draft"]
    return Measurements(
        captured=TokenCurve(tokens=tuple(captured), seconds=tuple(captured.values())),
        eager=None if eager is None else GridCurve(tokens=tuple(eager), seconds=tuple(eager.values())),
        draft=RequestCurve(requests=tuple(draft), seconds=tuple(draft.values())),
    )
