"""Arguments of the launchers: what is wrong with one is said in a line, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

LOGITS: Final = (torch.float32, torch.bfloat16, torch.float16)
MAX_GAMMA: Final = 16
MAX_ROWS: Final = 1024
MAX_VOCAB: Final = 262_144
MAX_RANK: Final = 256


def tensor(
    name: str,
    value: torch.Tensor,
    dtype: torch.dtype | Sequence[torch.dtype],
    shape: Sequence[int | None],
    like: torch.Tensor,
    rows_only: bool = False,
) -> None:
    """Raises unless ``value`` is what a kernel reads.

    Args:
        name: As the launcher calls it.
        dtype: The dtypes that are taken.
        shape: None stands for any size.
        like: A tensor on the device that is expected.
        rows_only: Elements of the last dimension lie side by side; the others may have any stride.

    Raises:
        ValueError: Naming the argument and what was expected.
    """
    dtypes = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
    if value.dtype not in dtypes:
        raise ValueError(f"{name}: dtype {value.dtype}, expected {' or '.join(str(one) for one in dtypes)}")
    found = tuple(value.shape)
    if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: shape {list(found)}, expected [{wanted}]")
    if value.device != like.device:
        raise ValueError(f"{name}: on {value.device}, expected {like.device}")
    if not (value.is_contiguous() or (rows_only and value.numel() > 0 and value.stride(-1) == 1)):
        raise ValueError(
            f"{name}: strides {list(value.stride())}, expected {'rows' if rows_only else 'a tensor'} of"
            " contiguous elements"
        )


def between(name: str, value: int, least: int, most: int) -> None:
    """Raises ValueError unless ``least <= value <= most``."""
    if not least <= value <= most:
        raise ValueError(f"{name}: {value}, expected {least} to {most}")
