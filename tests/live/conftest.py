"""Fixtures of the live tests. All need the pinned CPU set, which ``make test`` installs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.live import servers


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of a run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def plain(shared: Path) -> list[list[int]]:
    """Tokens of every prompt without speculation. The first worker to ask starts the server, others wait for it."""
    with FileLock(str(shared / "plain.lock")):
        return servers.plain_outputs(shared)


@pytest.fixture(scope="session")
def steered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.SteeredServer]:
    """The server of a configuration of ``servers``; tests of one configuration run one after another."""
    mode, overlap = request.param
    with servers.steered(tmp_path_factory.mktemp("server"), mode, overlap) as found:
        yield found
