"""Checks of launcher arguments, made before any kernel runs."""

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
    """Raise unless a tensor has the dtype, shape, device and layout that a kernel reads.

    Args:
        name: Of the argument, for the message.
        dtype: Accepted dtypes.
        shape: Expected sizes; None accepts any.
        like: A tensor on the expected device.
        rows_only: Only the last dimension must be contiguous.

    Raises:
        ValueError: The message names the argument, its value and the expected one.
    """
    dtypes = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
    if value.dtype not in dtypes:
        raise ValueError(f"{name}: dtype {value.dtype}, expected {' or '.join(str(one) for one in dtypes)}")
    sizes = tuple(value.shape)
    if len(sizes) != len(shape) or any(want not in (None, have) for want, have in zip(shape, sizes, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: shape {list(sizes)}, expected [{wanted}]")
    if value.device != like.device:
        raise ValueError(f"{name}: on {value.device}, expected {like.device}")
    if not (value.is_contiguous() or (rows_only and value.numel() > 0 and value.stride(-1) == 1)):
        raise ValueError(
            f"{name}: strides {list(value.stride())}, expected {'rows' if rows_only else 'a tensor'} of"
            " contiguous elements"
        )


def between(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError unless ``least <= value <= most``."""
    if not least <= value <= most:
        raise ValueError(f"{name}: {value}, expected {least} to {most}")
