"""The file in which a bench says on which GPU which stage is faster than SGLang's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
import triton

VARIABLE: Final = "DSPARK_KERNELS_RESULT"
FORMAT: Final = 1


def path() -> Path:
    """Where it is: DSPARK_KERNELS_RESULT, or in the user's cache."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    # Not Path.home, which raises where the user has none.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sglang-dspark" / "kernels.json"  # noqa: PTH111


def key(device: torch.device) -> str:
    """What a result is good for: a GPU under a version of Triton, which compiles the kernels."""
    return f"{torch.cuda.get_device_name(device)}, triton {triton.__version__}"


def wins(device: torch.device) -> frozenset[str]:
    """The stages that were faster than SGLang's in every row of the bench on this GPU; none where it was not run."""
    if device.type != "cuda":
        return frozenset()
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return frozenset()
    entry = found.get("results", {}).get(key(device), {})
    return frozenset(stage for stage, won in entry.get("wins", {}).items() if won is True)


def write(device: torch.device, stages: dict[str, bool], rows: list[dict[str, Any]]) -> Path:
    """Adds or replaces this GPU's result. Written in one piece."""
    place = path()
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        assert found["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        found = {"format": FORMAT, "results": {}}
    found["results"][key(device)] = {"wins": stages, "rows": rows}
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(place)
    return place
