"""The pinned packages have the versions of ``pip install sglang``, except for PyTorch's CPU build."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from sglang_dspark.serving.hooks import SUPPORTED

PINS = Path(__file__).parents[2] / "requirements" / "cpu.txt"
# ``requirements/cpu.in`` and docs/serving.md say so.
DIFFERENT = {"torch": ("2.14.1", "2.13.0")}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def exact(requirements: list[str]) -> dict[str, str]:
    """Versions that are required exactly, of requirements without an extra."""
    matches = (re.fullmatch(r"([\w.-]+)\s*==\s*([\w.]+)", line.split(";")[0].strip()) for line in requirements)
    return {normal(match[1]): match[2] for match in matches if match}


def test_what_sglang_pins_is_installed_in_that_version() -> None:
    theirs = exact([line for line in importlib.metadata.requires("sglang") or [] if "extra ==" not in line])
    ours = exact(PINS.read_text().splitlines())
    assert ours["sglang"] in SUPPORTED and ours["sglang"] == importlib.metadata.version("sglang")
    assert {name: (theirs[name], ours[name]) for name in theirs.keys() & ours.keys() if theirs[name] != ours[name]} == (
        DIFFERENT
    )
    # Nor does anything come in another way, in whatever version is the newest.
    installed = {normal(str(found.name)) for found in importlib.metadata.distributions()}
    assert sorted((theirs.keys() & installed) - ours.keys()) == []
    assert {"numba", "transformers", "tokenizers", "xgrammar"} <= theirs.keys() & ours.keys()
