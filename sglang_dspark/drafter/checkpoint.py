"""Reading draft checkpoints of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sglang_dspark.drafter import families
from sglang_dspark.drafter.base import Drafter
from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.errors import InputError


def read_config(folder: Path) -> DraftConfig:
    """Read ``config.json`` of a checkpoint.

    Raises:
        InputError: It is absent, is not JSON, or describes no draft of a known family.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a checkpoint") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    names = content.get("architectures") if isinstance(content, dict) else None
    if not isinstance(names, list) or len(names) != 1:
        raise InputError(f"{path}: architectures: {names!r} is not a list of one draft model")
    try:
        family = families.drafter_class(names[0]).config_class
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return family.from_content(content, names[0], path)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Drafter[Any]:
    """Read a checkpoint and cast it to ``dtype``.

    Raises:
        InputError: Files are absent, or the weights do not fit ``config.json``.
    """
    drafter = families.make(read_config(folder))
    drafter.read_weights(folder)
    return drafter.to(dtype)
