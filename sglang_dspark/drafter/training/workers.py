"""The processes of a training run: one, or several through accelerate under a launcher such as ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sglang_dspark.errors import InputError


class Workers:
    """This process's rank and device, and the communication between processes."""

    def __init__(self, device: str | None) -> None:
        self.accelerator: Any = None
        self.count, self.rank = 1, 0
        count = os.environ.get("WORLD_SIZE") or "1"
        if not count.isdecimal():
            raise InputError(f"WORLD_SIZE: {count!r} is not a number of processes; unset it, or start with torchrun")
        if int(count) > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise InputError(
                    "WORLD_SIZE: more than one process needs accelerate; pip install 'sglang-dspark[train]'"
                ) from error
            self.accelerator = Accelerator(cpu=device == "cpu")
            self.count, self.rank = self.accelerator.num_processes, self.accelerator.process_index
            self.device = self.accelerator.device
        else:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Average gradients over all processes, in place."""
        if self.accelerator is not None:
            for tensor in tensors:
                if tensor is not None:
                    tensor.copy_(self.accelerator.reduce(tensor, reduction="mean"))

    def agree(self, value: float) -> float:
        """Broadcast the first process's value to all."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
