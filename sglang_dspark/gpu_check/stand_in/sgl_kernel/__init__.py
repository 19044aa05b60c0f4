"""A stand-in for the CUDA build of ``sgl_kernel``: the functions that serving a dense text model calls.

The real package is compiled for one version of PyTorch; the stand-in works with others. It implements norms and
activations in PyTorch and one Triton kernel. Every other name, in any submodule, can be imported, and raises when
called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F  # noqa: N812
import triton
import triton.language as tl


def rmsnorm(
    input: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    out: torch.Tensor | None = None,
    enable_pdl: bool | None = None,
) -> torch.Tensor:
    """Compute ``input / rms(input) * weight`` over the last dimension, computed in float32."""
    result = F.rms_norm(input, weight.shape, weight, eps)
    return result if out is None else out.copy_(result)


def fused_add_rmsnorm(
    input: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    enable_pdl: bool | None = None,
) -> None:
    """Set ``residual += input``, then ``input = rmsnorm(residual)``, both in place.

    One kernel: a layer calls it twice, and separate launches would be a part of the step times that are measured.

    Args:
        input: [tokens, hidden].
        residual: [tokens, hidden].
    """
    rows, width = input.shape
    _fused_add_rmsnorm[(rows,)](
        input, residual, weight, input.stride(0), residual.stride(0), width, eps, BLOCK=triton.next_power_of_2(width)
    )


@triton.jit
def _fused_add_rmsnorm(  # type: ignore[no-untyped-def]
    input,
    residual,
    weight,
    input_stride,
    residual_stride,
    width,
    eps,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(input + row * input_stride + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + row * residual_stride + column, x, mask=inside)
    scale = tl.rsqrt(tl.sum(x * x) / width + eps)
    y = x * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(input + row * input_stride + column, y, mask=inside)


def gemma_rmsnorm(
    input: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    out: torch.Tensor | None = None,
    enable_pdl: bool | None = None,
) -> torch.Tensor:
    """Apply :func:`rmsnorm` with ``1 + weight``."""
    return rmsnorm(input, weight + 1, eps, out)


def gemma_fused_add_rmsnorm(
    input: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    enable_pdl: bool | None = None,
) -> None:
    """Apply :func:`fused_add_rmsnorm` with ``1 + weight``."""
    fused_add_rmsnorm(input, residual, weight + 1, eps)


def _gated(activation: Any) -> Any:
    def gate(input: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        left, right = input.chunk(2, dim=-1)
        result: torch.Tensor = activation(left) * right
        return result if out is None else out.copy_(result)

    return gate


silu_and_mul = _gated(F.silu)
gelu_and_mul = _gated(F.gelu)
gelu_tanh_and_mul = _gated(lambda x: F.gelu(x, approximate="tanh"))


def top_k_renorm_prob(probs: torch.Tensor, top_k: torch.Tensor | int) -> torch.Tensor:
    """Keep the probabilities of each row that are at least its ``top_k``-th largest, and divide by their sum.

    Args:
        probs: float32 [R, V].
        top_k: int [R], or one for all rows.
    """
    counts = torch.as_tensor(top_k, device=probs.device).expand(len(probs)).long().clamp(1, probs.shape[1])
    least = probs.sort(dim=-1, descending=True).values.gather(1, counts[:, None] - 1)
    kept = probs.masked_fill(probs < least, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def top_p_renorm_prob(probs: torch.Tensor, top_p: torch.Tensor | float) -> torch.Tensor:
    """Keep the largest probabilities of each row until their sum reaches ``top_p``, and divide by their sum.

    Args:
        probs: float32 [R, V].
        top_p: float [R], or one for all rows.
    """
    shares = torch.as_tensor(top_p, device=probs.device, dtype=probs.dtype).expand(len(probs))
    ordered, places = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= shares[:, None], 0.0)
    kept = torch.zeros_like(probs).scatter_(1, places, ordered)
    return kept / kept.sum(dim=-1, keepdim=True)


def is_arch_support_pdl() -> bool:
    """Return whether the GPU supports programmatic dependent launch (sm_90 and later)."""
    return torch.cuda.get_device_capability()[0] >= 9


class _AbsentName:
    """A name without an implementation: its attributes can be read, and calling it raises an error with the name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: object, **keywords: object) -> NoReturn:
        raise NotImplementedError(f"{self._name} has no stand-in in sglang_dspark.gpu_check")

    def __getattr__(self, name: str) -> _AbsentName:
        return _absent_name(self._name, name)

    def __or__(self, other: object) -> _AbsentName:  # In annotations.
        return self

    __ror__ = __or__


def _absent_name(module: str, name: str) -> _AbsentName:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AbsentName(f"{module}.{name}")


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Make every ``sgl_kernel.NAME`` an importable module of absent names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("sgl_kernel."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        here = {"is_arch_support_pdl": is_arch_support_pdl} if spec.name == "sgl_kernel.utils" else {}
        module.__dict__.update(here, __getattr__=lambda name: _absent_name(spec.name, name))
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Execute nothing."""


sys.meta_path.append(_Submodules())


def __getattr__(name: str) -> _AbsentName:
    return _absent_name("sgl_kernel", name)
