"""Greedy outputs equal the plain server's for every policy family, verify mode and schedule."""

from __future__ import annotations

import pytest

from sglang_dspark.local_server.policies import FAMILIES, artifact
from tests.live import lossless, servers

CONFIGURATIONS = (servers.COMPACT, servers.CAP_ACCEPT, servers.COMPACT_SYNC, servers.CAP_ACCEPT_SYNC)


@pytest.mark.parametrize("steered", CONFIGURATIONS, indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_plain_servers(steered: servers.SteeredServer, family: str, plain: list[list[int]]) -> None:
    steered.use(artifact(family))
    loaded = servers.ask_all(steered.server)
    lossless.check(plain, loaded, family)
    if family == "none":
        assert loaded.accepted_length == 1.0
        assert loaded.verify_length == 0.0
    else:
        # The threshold rests the drafter above 14 requests, which is most of the time.
        assert loaded.accepted_length > (1.05 if family == "threshold" else 1.2)
        assert 0.1 < loaded.verify_length < 7
