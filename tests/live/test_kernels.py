"""A server on our kernels, interpreted, answers token for token as one on their references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import DSPARK, ServerProcess
from sglang_dspark.policy.artifact import save
from sglang_dspark.serving.launch import POLICY
from tests.live import servers

PROMPTS, TOKENS = 20, 8
KERNELS = "--speculative-dspark-kernels"
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.9},
)


def answers(folder: Path, **environment: str) -> tuple[list[Any], str]:
    """Ids and verify steps of every prompt under every sampling, one after the other, and the server's log."""
    policy = folder / "policy.json"
    save(artifact("static"), policy)
    flags = {**servers.FLAGS, **DSPARK, **servers.NO_FALLBACK, POLICY: str(policy), KERNELS: "ours"}
    chosen = {"SGLANG_RAGGED_VERIFY_MODE": "compact", **environment}
    turns = [
        (prompt, how, sampling)
        for prompt in range(PROMPTS)
        for how, sampling in enumerate(SAMPLING[: 3 if prompt % 4 == 0 else 2])
    ]
    with ServerProcess(
        folder / "server.log", {**flags, "--disable-overlap-schedule": ""}, chosen, servers.FORKED
    ) as server:
        answers = servers.answers_in_order(server, turns, TOKENS)
    return answers, server.log.read_text(errors="replace")


@pytest.mark.xdist_group("kernels")
def test_kernels_answer_what_their_references_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, log = answers(tmp_path_factory.mktemp("kernels"), TRITON_INTERPRET="1")
    assert "kernels (ours): ours (kernels) for accept, confidence, draft, lengths" in log
    wanted, log = answers(tmp_path_factory.mktemp("references"))
    assert "ours (their references, which is no faster) for accept, confidence, draft, lengths" in log
    assert len(ours) == 2 * PROMPTS + 5
    assert ours == wanted
    steps = sum(count for _, count in ours)
    assert steps < 0.8 * len(ours) * TOKENS, "nothing was accepted, so nothing was compared"
