"""Two ranks over gloo: one of them cannot use a stage of ours, so neither does, and their broadcasts match."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.serving import two_ranks

GAMMA, VOCAB, RANK, ROWS, DEADLINE_S = 3, 40, 8, 5, 900.0
SCENARIOS = (
    "all pass",
    "a check fails on rank 1",
    "a check fails on rank 0",
    "no bench on rank 1",
    "no head on rank 0",
    "none asked for on rank 1",
)


def start(number: int, folder: str) -> None:
    """One rank's process: installs, drafts a block, and writes what it uses, what it drafted and what it logged."""
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    from sglang_dspark.cpu_engine import early

    early.prepare([])
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    found = {name: _run(name, number) for name in SCENARIOS}
    Path(folder, f"rank-{number}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _run(name: str, number: int) -> dict[str, Any]:
    import torch
    import torch.distributed as dist
    from sglang.srt.models.dspark import VanillaMarkov
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftNoise, draft_markov_block

    from dspark_kernels.startup import bench_results, selfcheck
    from sglang_dspark.serving import kernels, settings
    from tests.serving.test_agreement import _group

    torch.manual_seed(3)
    head = VanillaMarkov(vocab_size=VOCAB, markov_rank=RANK)
    broadcasts = []

    class Sync:
        _tp_group = _group(number)

        def sync(self, site: object, values: torch.Tensor) -> torch.Tensor:
            broadcasts.append(values.numel())
            dist.broadcast(values, src=0)
            return values

    noise = DraftNoise(key=7, offset=torch.zeros(1, dtype=torch.int64))
    proposer = SimpleNamespace(
        draft_model=SimpleNamespace(
            markov_head=head,
            confidence_head=None,
            lm_head=SimpleNamespace(num_embeddings_per_partition=VOCAB // 2, tp_size=2),
        ),
        draft_model_runner=SimpleNamespace(
            server_args=SimpleNamespace(speculative_use_block_verification=False, max_running_requests=ROWS),
            device="cpu",
            dtype=torch.float32,
            model_config=SimpleNamespace(hidden_size=16),
        ),
        noise=noise,
        gamma=GAMMA,
        _greedy_draft=False,
        _tp_sync=Sync(),
    )
    fails = name in (f"a check fails on rank {number}",)
    won = frozenset() if name == f"no bench on rank {number}" else frozenset(selfcheck.STAGES)
    if name == f"no head on rank {number}":
        proposer.draft_model.markov_head = object()
    settings.put("kernels", "upstream" if name == f"none asked for on rank {number}" else "auto")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    kernels.logger.addHandler(handler)
    kernels.logger.setLevel(logging.INFO)
    with (
        mock.patch.object(selfcheck, "differing", lambda *given: {"draft": "draft: other tokens"} if fails else {}),
        mock.patch.object(bench_results, "wins", lambda device, served: won),
        mock.patch.object(kernels, "launches", lambda tensor: True),
    ):
        kernels.install(None, proposer)
    kernels.logger.removeHandler(handler)
    stages = sorted(kernels._installed.stages) if kernels._installed else []
    with torch.no_grad():
        drafts, _ = kernels.draft_markov_block(
            draft_markov_block,
            markov_head=head,
            base_logits=torch.randn(ROWS, GAMMA, VOCAB),
            anchor_tokens=torch.zeros(ROWS, dtype=torch.int64),
            draft_hidden=None,
            step_temperatures=torch.ones(ROWS),
            noise=noise,
            tp_sync=proposer._tp_sync,
        )
    return {"stages": stages, "drafts": drafts.tolist(), "broadcasts": len(broadcasts), "log": lines}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks.run(start, tmp_path_factory.mktemp("ranks"), DEADLINE_S)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ranks_use_the_same_stages_and_broadcast_alike(ranks: list[dict[str, Any]], scenario: str) -> None:
    first, second = (found[scenario] for found in ranks)
    assert first["stages"] == second["stages"] and first["broadcasts"] == second["broadcasts"]
    assert first["drafts"] == second["drafts"]
    stages = ["accept", "confidence", "draft", "lengths"]
    if scenario.startswith("a check"):
        # Acceptance reads what our draft writes.
        stages = ["confidence", "lengths"]
    elif scenario.startswith("no"):
        stages = []
    assert first["stages"] == stages
    assert first["broadcasts"] == (1 if "draft" in stages else GAMMA)


def test_the_rank_that_has_to_do_without_says_which_rank_it_is(ranks: list[dict[str, Any]]) -> None:
    told = ranks[0]["a check fails on rank 1"]["log"]
    assert "sglang-dspark: kernels: draft is SGLang's on rank 1, and so on all ranks" in told
    told = ranks[0]["no bench on rank 1"]["log"]
    assert told[-1] == "sglang-dspark: kernels (auto): SGLang's own; no stage is ours on every rank"
    assert "no bench has shown" in ranks[1]["no bench on rank 1"]["log"][-1]
