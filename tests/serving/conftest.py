"""SGLang on this machine: its CPU engine, so that its planner can be imported and driven without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["SGLANG_USE_CPU_ENGINE"] = "1"

from sglang_dspark.cpu_engine import early

early.prepare([])

from sglang_dspark.serving import launch, settings, support  # noqa: E402
from tests.serving import harness  # noqa: E402


@pytest.fixture
def hooked() -> Iterator[None]:
    """The planner's hooks in place, as the registry puts them there, for one test."""
    with harness.hooks_on_planner():
        yield


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back whatever a test leaves in the environment, which is what children inherit."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(launch, "_ours", {})
    for name in (settings.VARIABLE, support.VARIABLE, launch.SIMULATE):
        os.environ.pop(name, None)
