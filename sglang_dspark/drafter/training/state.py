"""The folder of a training run, from which a killed run resumes.

It holds ``recipe.yaml``, ``state.pt``, ``log.jsonl`` and ``draft``, the checkpoint with the highest accepted length on
held-out texts. Files are written atomically.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from sglang_dspark.drafter.training.recipe import Recipe
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

DRAFT = "draft"
RECIPE = "recipe.yaml"
STATE = "state.pt"
LOG = "log.jsonl"


@dataclass
class Progress:
    """The progress of a training run.

    ``best`` is the highest accepted length measured, ``stale`` the number of measurements since, ``log`` the lines
    of the log.
    """

    step: int = 0
    best: float = 0.0
    best_step: int = 0
    stale: int = 0
    ended: bool = False
    log: list[dict[str, float]] = field(default_factory=list)


def claim(folder: Path, recipe: Recipe) -> None:
    """Write the recipe into the folder.

    Raises:
        InputError: The folder belongs to a run of another recipe.
    """
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    path = folder / RECIPE
    if path.exists():
        if path.read_text() != text:
            raise InputError(f"{folder}: holds a training by another recipe ({RECIPE}); choose another folder")
    elif (folder / STATE).exists():
        raise InputError(f"{folder}: holds a {STATE} and no {RECIPE}; choose another folder")
    write_atomically(path, text)


def save(folder: Path, progress: Progress, drafter: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state and the log."""
    content = asdict(progress) | {"drafter": drafter.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(folder / STATE, buffer.getvalue())
    write_atomically(folder / LOG, "".join(json.dumps(line) + "\n" for line in progress.log))


def restore(folder: Path, drafter: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Restore the last saved state into model and optimizer, or start at step 0 where none was saved.

    Raises:
        InputError: The state is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return Progress()
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        drafter.load_state_dict(content.pop("drafter"))
        optimizer.load_state_dict(content.pop("optimizer"))
        return Progress(**content)
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be resumed ({reason}); remove it to start again") from error
