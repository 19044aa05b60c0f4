"""SGLang's configurations import torchvision, and no build of it loads beside PyTorch's CPU wheel of the pinned set."""

from __future__ import annotations

import enum
import importlib.machinery
import importlib.util
import sys
import types
from typing import Final, NoReturn

NAMES: Final = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
MODES: Final = ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")


def install() -> None:
    """Enters empty modules, where torchvision is not installed and this PyTorch has no CUDA."""
    import torch

    if torch.version.cuda is not None or "torchvision" in sys.modules or importlib.util.find_spec("torchvision"):
        return
    from transformers.utils import import_utils

    # Its answer is kept: transformers must go on without torchvision, stand-in or not.
    import_utils.is_torchvision_available()
    modes = enum.Enum("InterpolationMode", {name: name.lower() for name in MODES})  # type: ignore[misc]
    for name in NAMES:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__dict__["InterpolationMode"] = modes
        module.__dict__["__getattr__"] = _missing
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _missing(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(f"torchvision.{name}: torchvision is not installed; the CPU engine serves text only")
