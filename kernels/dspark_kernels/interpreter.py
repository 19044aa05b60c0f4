"""Detect Triton's interpreter, and correct its bfloat16 arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter


def interpreted() -> bool:
    """Whether this process interprets kernels; TRITON_INTERPRET decides it when Triton is first imported."""
    return not isinstance(tl.max, triton.runtime.JITFunction)


def launches(tensor: torch.Tensor) -> bool:
    """Whether kernels can run on this tensor's device; otherwise the references run."""
    return tensor.device.type != "cpu" or interpreted()


def correct_bfloat16() -> None:
    """Make the interpreter compute bfloat16 as the hardware does.

    Triton 3.8's interpreter stores bfloat16 as 16-bit integers, multiplies matrices of those integers, and truncates
    where a GPU rounds.
    """
    builder = interpreter.InterpreterBuilder
    multiply, cast = builder.create_dot, builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        return multiply(self, _widened(a), _widened(b), d, *options)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_rounded(source.data), tl.bfloat16)
        if source.dtype.scalar == tl.bfloat16 and to.scalar == tl.float32:
            return _widened(source)
        return cast(self, source, to)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    data = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(data, tl.float32)


def _rounded(data: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype(np.uint16)


if interpreted():
    correct_bfloat16()
