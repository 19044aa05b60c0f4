"""Tests of a group run on one worker, which makes their servers, fits and searches once."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="tests run in one process")
def test_workers_keep_groups_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist appends the group to a test's id; a version that does not divides groups between workers."""
    assert request.node.nodeid.endswith("@tests/test_workers.py")
