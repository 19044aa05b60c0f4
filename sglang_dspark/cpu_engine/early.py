"""Detect a CPU server, and put its stand-in packages in place before anything is imported.

Runs before SGLang looks at its device, so nothing of SGLang is imported here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

VARIABLE: Final = "SGLANG_USE_CPU_ENGINE"
STAND_IN: Final = str(Path(__file__).parent / "stand_in")


def prepare(arguments: Sequence[str] | None = None) -> None:
    """Put the stand-ins in place, if and only if a CPU server is requested and has no kernels.

    Requested means ``--device cpu`` on the command line (or ``device: cpu`` in its ``--config``), or
    ``SGLANG_USE_CPU_ENGINE=1``, which is what child processes inherit and what a program that makes a
    ``sglang.Engine(device="cpu")`` sets before it imports sglang: that import fixes the device. A command line that
    names another device beats the variable. A missing or broken GPU requests nothing.

    Args:
        arguments: The command line; ``sys.argv`` by default.
    """
    device = requested_device(sys.argv[1:] if arguments is None else arguments)
    if device != "cpu" and (device is not None or os.environ.get(VARIABLE) != "1"):
        return
    os.environ[VARIABLE] = "1"
    if "sgl_kernel" not in sys.modules and not _has_cpu_kernels():
        # A folder on the path also reaches spawned children, whose plugins load after sgl_kernel is imported.
        if STAND_IN not in sys.path:
            sys.path.insert(0, STAND_IN)
        from sglang_dspark.cpu_engine import torchvision_stand_in

        torchvision_stand_in.install()


def in_use() -> bool:
    """Whether the stand-in is what this process imports as ``sgl_kernel``."""
    if os.environ.get(VARIABLE) != "1":
        return False
    spec = importlib.util.find_spec("sgl_kernel")
    return spec is not None and str(spec.origin).startswith(STAND_IN)


def requested_device(arguments: Sequence[str]) -> str | None:
    """The device that a server's command line names: the last ``--device``, which beats the one in ``--config``."""
    device = _last(arguments, "--device")
    if device is None and (config := _last(arguments, "--config")) is not None:
        device = _device_in(Path(config))
    return device


def _last(arguments: Sequence[str], option: str) -> str | None:
    value = None
    for i, word in enumerate(arguments):
        if word == option and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def _device_in(config: Path) -> str | None:
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # SGLang reads the file too, and reports the error.
    device = content.get("device") if isinstance(content, dict) else None
    return None if device is None else str(device)


def _has_cpu_kernels() -> bool:
    """Whether an installed ``sgl_kernel`` is a CPU build. The CUDA build keeps one library for each architecture."""
    spec = importlib.util.find_spec("sgl_kernel")
    if spec is None or not spec.submodule_search_locations:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    if any(str(folder).startswith(STAND_IN) for folder in folders):
        return False
    return not any(child.name.startswith("sm") and child.is_dir() for folder in folders for child in folder.iterdir())
