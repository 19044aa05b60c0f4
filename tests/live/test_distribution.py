"""First tokens at temperature 1 follow the target's distribution; a scheduler that is not lossless is detected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sglang_dspark.demo.text import held_out
from sglang_dspark.local_server import first_tokens
from sglang_dspark.local_server.policies import artifact
from tests.live import servers

ALPHA = 1e-4
PEEKING = Path(__file__).parent / "peeking"


def prompt() -> str:
    return held_out("code", 1, 24, seed=3)[0]


@pytest.mark.parametrize("steered", [servers.COMPACT], indirect=True)
def test_first_tokens_are_distributed_as_the_target_says(steered: servers.SteeredServer) -> None:
    steered.use(artifact("static"))
    found = first_tokens.fit(first_tokens.draw(steered.server, prompt()), first_tokens.exact(prompt()))
    print(f"chi-square {found.statistic:.0f} on {found.degrees} degrees, p = {found.p_value:.3f}")
    assert found.degrees > 50
    assert found.p_value > ALPHA


@pytest.mark.xdist_group("sync")
def test_first_tokens_in_two_bytes_are_distributed_as_the_target_says(tmp_path: Path) -> None:
    """In bfloat16, as GPUs serve it, against the target in bfloat16."""
    with servers.steered(tmp_path, "compact", True, **{"--dtype": "bfloat16"}) as steered:
        steered.use(artifact("static"))
        found = first_tokens.fit(
            first_tokens.draw(steered.server, prompt()), first_tokens.exact(prompt(), torch.bfloat16)
        )
    print(f"chi-square {found.statistic:.0f} on {found.degrees} degrees, p = {found.p_value:.3f}")
    assert found.degrees > 50
    assert found.p_value > ALPHA


@pytest.mark.xdist_group("sync")
def test_a_scheduler_that_peeks_is_found_out(tmp_path: Path) -> None:
    with servers.steered(tmp_path, "compact", True, {"PYTHONPATH": str(PEEKING)}) as steered:
        steered.use(artifact("static"))
        found = first_tokens.fit(first_tokens.draw(steered.server, prompt()), first_tokens.exact(prompt()))
    print(f"chi-square {found.statistic:.0f} on {found.degrees} degrees, power {found.power(ALPHA):.4f}")
    assert found.p_value < ALPHA
    assert found.power(ALPHA) >= 0.99
