"""Capabilities of SGLang's model classes, read from their source: importing them is slow and may need a GPU."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Final

from sglang_dspark.serving.source_tree import SourceTree

MODELS: Final = "sglang.srt.models"
METHODS: Final = ("set_dspark_layers_to_capture", "set_dflash_layers_to_capture")


@cache
def hands_over_hidden_states(architecture: str) -> bool | None:
    """Whether a target of this class can hand its layers' hidden states to a DSpark draft.

    Returns:
        None where SGLang has no class of this name, which another package may bring.
    """
    spec = importlib.util.find_spec("sglang")
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    defined = re.compile(rf"^class {re.escape(architecture)}\b", re.MULTILINE)
    for path in package.joinpath(*MODELS.split(".")[1:]).glob("*.py"):
        if defined.search(path.read_text(encoding="utf-8")):
            tree = SourceTree(package.parent)
            # A class with ``__getattr__`` passes lookups on to the class that it wraps.
            names = (f"{MODELS}.{path.stem}.{architecture}.{method}" for method in (*METHODS, "__getattr__"))
            return any(tree.find(name) is not None for name in names)
    return None
