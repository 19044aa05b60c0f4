"""The stand-in for the CUDA build of ``sgl_kernel``: its functions against plain PyTorch, and absent names."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sglang_dspark.gpu_check.environment import STAND_IN

SOURCE = Path(STAND_IN) / "sgl_kernel" / "__init__.py"


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The module under another name: the process may hold the CPU engine's."""
    spec = importlib.util.spec_from_file_location("stand_in_under_test", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.meta_path)
    spec.loader.exec_module(module)
    sys.meta_path[:] = before
    return module


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def test_norms(kernels: ModuleType) -> None:
    x, weight = torch.randn(5, 24), torch.randn(24)
    torch.testing.assert_close(kernels.rmsnorm(x, weight, 1e-5).double(), norm(x, weight, 1e-5), rtol=1e-5, atol=1e-6)
    out = torch.empty_like(x)
    assert kernels.gemma_rmsnorm(x, weight, 1e-5, out=out) is out
    torch.testing.assert_close(out.double(), norm(x, weight + 1, 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=1, as make test does")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # The interpreter cuts bfloat16 off.
@pytest.mark.parametrize("gemma", [False, True])
def test_add_and_norm_in_place(kernels: ModuleType, dtype: torch.dtype, gemma: bool) -> None:
    x, residual, weight = (torch.randn(7, 48).to(dtype)[:, :40] for _ in range(3))
    weight = weight[0].contiguous()
    total = x.float() + residual.float()
    wanted = norm(total, weight + 1 if gemma else weight, 1e-5)
    (kernels.gemma_fused_add_rmsnorm if gemma else kernels.fused_add_rmsnorm)(x, residual, weight, 1e-5)
    torch.testing.assert_close(residual.float(), total.to(dtype).float(), rtol=0, atol=0)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(x.double(), wanted, rtol=tolerance, atol=tolerance)


def test_gated_activations(kernels: ModuleType) -> None:
    x = torch.randn(3, 16)
    gate, up = x[:, :8].double(), x[:, 8:].double()
    out = torch.empty(3, 8)
    kernels.silu_and_mul(x, out)
    torch.testing.assert_close(out.double(), gate / (1 + (-gate).exp()) * up, rtol=1e-5, atol=1e-6)
    plain = gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * up
    torch.testing.assert_close(kernels.gelu_and_mul(x).double(), plain, rtol=1e-5, atol=1e-6)
    assert (kernels.gelu_tanh_and_mul(x).double() - plain).abs().max() < 2e-3


def test_renormalisation_keeps_the_largest(kernels: ModuleType) -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.3, 0.05, 0.4]])
    torch.testing.assert_close(
        kernels.top_k_renorm_prob(probs, torch.tensor([2, 4])),
        torch.stack([torch.tensor([0.0, 4.0, 0.0, 3.0]) / 7, probs[1]]),
    )
    torch.testing.assert_close(kernels.top_k_renorm_prob(probs, 1 << 30), probs)
    torch.testing.assert_close(
        kernels.top_p_renorm_prob(probs, torch.tensor([0.6, 0.3])),
        torch.stack([torch.tensor([0.0, 4.0, 0.0, 3.0]) / 7, torch.tensor([0.0, 0.0, 0.0, 1.0])]),
    )
    torch.testing.assert_close(kernels.top_p_renorm_prob(probs, 1.0), probs)


ABSENT = """
import sgl_kernel
from sgl_kernel import merge_state_v2
from sgl_kernel.scalar_type import ScalarType, scalar_types
import sgl_kernel.elementwise.more as more
def f(x: ScalarType | None) -> int: ...
kinds = {4: scalar_types.uint4b8}
for name in (merge_state_v2, kinds[4], more.copy):
    try:
        name(1, of=2)
    except NotImplementedError as error:
        print(error)
print(hasattr(sgl_kernel, "__version__"))
"""


def test_other_names_import_and_raise_when_called() -> None:
    environment = {**os.environ, "PYTHONPATH": STAND_IN}
    said = subprocess.run([sys.executable, "-c", ABSENT], env=environment, capture_output=True, text=True, check=True)
    names = (
        "sgl_kernel.merge_state_v2",
        "sgl_kernel.scalar_type.scalar_types.uint4b8",
        "sgl_kernel.elementwise.more.copy",
    )
    assert said.stdout.splitlines() == [
        *(f"{name} has no stand-in in sglang_dspark.gpu_check" for name in names), "False"
    ]  # fmt: skip
