"""Two ranks that share the vocabulary of the draft head answer as two that each hold all of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.local_server.process import DSPARK, ServerProcess
from tests.live import servers

SHARDING = {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent / "sharding"), os.environ.get("PYTHONPATH", "")))}
PROMPTS, TOKENS = 4, 6
SAMPLING: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"temperature": 1.0})
# SGLang binds each rank to cores; a machine of two has one for each.
RANKS = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1", "SGLANG_RAGGED_VERIFY_MODE": "compact"}


def answers(folder: Path, kernels: str, **environment: str) -> tuple[list[Any], str]:
    """Ids and verify steps of every prompt, greedy and sampled, one after the other, and the server's log."""
    flags = {**servers.FLAGS, **DSPARK, "--tp": "2", "--speculative-dspark-kernels": kernels}
    turns = [(prompt, how, sampling) for prompt in range(PROMPTS) for how, sampling in enumerate(SAMPLING)]
    with ServerProcess(
        folder / "server.log", {**flags, "--disable-overlap-schedule": ""}, {**RANKS, **environment}, servers.FORKED
    ) as server:
        answers = servers.answers_in_order(server, turns, TOKENS)
    return answers, server.log.read_text(errors="replace")


@pytest.mark.xdist_group("kernels")
def test_ranks_with_a_shard_answer_as_ranks_with_the_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels on shards, references on the whole; and SGLang's own on shards where answers are greedy."""
    sharded, log = answers(tmp_path_factory.mktemp("s"), "ours", TRITON_INTERPRET="1", **SHARDING)
    assert log.count("kernels (ours): ours (kernels) for accept, confidence, draft, lengths") == 2
    assert "markov_w2 vocab gather: NcclVocabGather" in log and "left to SGLang" not in log
    whole, log = answers(tmp_path_factory.mktemp("w"), "ours")
    assert log.count("(their references, which is no faster)") == 2 and "vocab gather" not in log
    assert sharded == whole
    steps = sum(count for _, count in whole)
    assert steps < 0.8 * len(whole) * TOKENS, "nothing was accepted, so nothing was compared"
    upstream, log = answers(tmp_path_factory.mktemp("u"), "upstream", **SHARDING)
    assert "markov_w2 vocab gather: NcclVocabGather" in log
    assert upstream[::2] == whole[::2]
