"""Temperature 0: whatever the policy, the verify mode and the schedule, the tokens are the plain server's."""

from __future__ import annotations

import pytest

from tests.live import lossless, servers
from tests.live.policies import FAMILIES, artifact

CONFIGURATIONS = (servers.COMPACT, servers.CAP_ACCEPT, servers.COMPACT_SYNC, servers.CAP_ACCEPT_SYNC)


@pytest.mark.parametrize("steered", CONFIGURATIONS, indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_plain_servers(steered: servers.Steered, family: str, plain: list[list[int]]) -> None:
    steered.use(artifact(family))
    loaded = servers.ask_all(steered.server)
    lossless.check(plain, loaded, family)
    if family == "none":
        assert loaded.accepted_length == 1.0
        assert loaded.verify_length == 0.0
    else:
        assert loaded.accepted_length > 1.2
        assert 0.5 < loaded.verify_length < 7
