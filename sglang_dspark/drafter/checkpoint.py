"""Drafters from their checkpoints, whatever their family."""

from __future__ import annotations

from pathlib import Path

import torch

from sglang_dspark.drafter.block import BlockDrafter
from sglang_dspark.drafter.config import BlockConfig, Eagle3Config, read
from sglang_dspark.drafter.eagle3 import Eagle3Drafter

AnyDrafter = BlockDrafter | Eagle3Drafter


def make(config: BlockConfig | Eagle3Config) -> AnyDrafter:
    """A drafter with torch's own first weights."""
    return Eagle3Drafter(config) if isinstance(config, Eagle3Config) else BlockDrafter(config)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> AnyDrafter:
    """Reads a checkpoint and casts it to ``dtype``.

    Raises:
        InputError: Files are absent, or hold another model than ``config.json`` says.
    """
    drafter = make(read(folder))
    drafter.read_weights(folder)
    return drafter.to(dtype)
