"""Run launchers on another device; inputs, references and comparisons stay on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

# Names under which test modules import launchers.
LAUNCHERS = ("accept", "confidence_block", "draft_block", "finish", "launch_target_rows", "scan", "verify_lengths")


def on_device(launcher: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Wrap a launcher: copy its tensors to a device, and its results and in-place writes back.

    Tensors keep their strides and shared storage: each storage is copied whole and once.
    """

    @functools.wraps(launcher)
    def moved(*arguments: Any, **named: Any) -> Any:
        there: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

        def send(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
                return value
            here = value.untyped_storage()
            if here.data_ptr() not in there:
                copy = torch.empty(here.nbytes(), dtype=torch.uint8, device=device)
                copy.copy_(torch.empty(0, dtype=torch.uint8).set_(here))
                there[here.data_ptr()] = here, copy.untyped_storage()
            made = torch.empty(0, dtype=value.dtype, device=device)
            storage = there[here.data_ptr()][1]
            return made.set_(storage, value.storage_offset(), value.shape, value.stride())

        sent = tree_map(send, (arguments, named))
        result = launcher(*sent[0], **sent[1])
        for here, copy in there.values():
            torch.empty(0, dtype=torch.uint8).set_(here).copy_(
                torch.empty(0, dtype=torch.uint8, device=device).set_(copy)
            )
        return tree_map(lambda value: value.cpu() if isinstance(value, torch.Tensor) else value, result)

    return moved
