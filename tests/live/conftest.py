"""Servers and reference outputs of the live tests, which need SGLang on a CPU (``make test`` installs it)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.live import servers


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that all workers of a run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def plain(shared: Path) -> list[list[int]]:
    """Output ids of every prompt without speculation, made by the first worker that needs them."""
    with FileLock(str(shared / "plain.lock")):
        return servers.plain_outputs(shared)


@pytest.fixture(scope="session")
def steered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.SteeredServer]:
    """Server of a configuration in ``servers``; it lasts until a test needs another configuration."""
    mode, overlap = request.param
    with servers.steered(tmp_path_factory.mktemp("server"), mode, overlap) as server:
        yield server
