"""Run the kernels under Triton's interpreter (TRITON_INTERPRET=1), or on a GPU if there is one; otherwise skip.

TRITON_INTERPRET is read when Triton is first imported, so it holds for a whole process. On a GPU the references and all
comparisons stay on the CPU. Uninitialised memory reads as NaN or as the largest integer, so a missing write is seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Deterministic matrix products on a GPU; cuBLAS reads it when it is loaded.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from tests.kernels.on_device import LAUNCHERS, on_device

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = not INTERPRETED and torch.cuda.is_available()
NO_DEVICE = "needs a GPU, or TRITON_INTERPRET=1 pytest tests/kernels, as make test does"
# Modules skipped on a GPU, with reasons.
WITHOUT = {
    "test_commands.py": "compiles and interprets, which needs no GPU: TRITON_INTERPRET=1 pytest tests/kernels",
    "test_shards.py": "its ranks are in the CPU's memory, where references would run: TRITON_INTERPRET=1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        if INTERPRETED:
            # The kernels compute with infinities; NumPy warns of each.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
        elif not ON_GPU:
            item.add_marker(pytest.mark.skip(reason=NO_DEVICE))
        elif (reason := WITHOUT.get(item.path.name)) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=ON_GPU)
def launched_on_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the launchers that a test module imports run on the GPU."""
    for name in LAUNCHERS:
        if (launcher := getattr(request.module, name, None)) is not None:
            monkeypatch.setattr(request.module, name, on_device(launcher, torch.device("cuda")))
