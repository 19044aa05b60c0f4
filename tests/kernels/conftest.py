"""Kernels under Triton's interpreter, which a process has from the start or not at all: TRITON_INTERPRET=1, by itself.

Memory that nobody has written reads as NaN or as the largest integer, so an output that a kernel leaves out shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        for item in items:
            # Infinities are at home in these kernels; NumPy warns of each.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
        return
    skip = pytest.mark.skip(reason="TRITON_INTERPRET=1 pytest tests/kernels, as make test does")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
