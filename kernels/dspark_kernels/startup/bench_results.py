"""The result file of the bench: the stages that beat SGLang's, by GPU and by shapes of the draft."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
import triton

from dspark_kernels.startup.served_shapes import ServedShapes

VARIABLE: Final = "DSPARK_KERNELS_RESULT"
FORMAT: Final = 2


def path() -> Path:
    """Path of the file: DSPARK_KERNELS_RESULT, or a file in the user's cache."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    # Path.home() raises for a user without a home directory; expanduser does not.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sglang-dspark" / "kernels.json"  # noqa: PTH111


def key(device: torch.device, served: ServedShapes) -> str:
    """Key of a result: the GPU, the Triton version, and the shapes and dtypes of the draft."""
    return f"{torch.cuda.get_device_name(device)}, triton {triton.__version__}, {served.flags()}"


def wins(device: torch.device, served: ServedShapes) -> frozenset[str]:
    """The stages that a bench measured as faster than SGLang's at every batch size; empty without a bench."""
    if device.type != "cuda":
        return frozenset()
    try:
        file = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    if not isinstance(file, dict) or file.get("format") != FORMAT:
        return frozenset()
    result = file.get("results", {}).get(key(device, served), {})
    if result.get("requests", 0) < served.requests:
        return frozenset()
    return frozenset(stage for stage, won in result.get("wins", {}).items() if won is True)


def write(device: torch.device, served: ServedShapes, stages: dict[str, bool], rows: list[dict[str, Any]]) -> Path:
    """Add or replace a result; the file is replaced atomically."""
    place = path()
    try:
        file = json.loads(place.read_text(encoding="utf-8"))
        assert file["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        file = {"format": FORMAT, "results": {}}
    file["results"][key(device, served)] = {"requests": served.requests, "wins": stages, "rows": rows}
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(file, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(place)
    return place
