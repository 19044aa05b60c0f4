"""Ranks in processes over gloo, each with a shard of the vocabulary: SGLang's heads on our kernels, interpreted."""

from __future__ import annotations

import functools
import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from tests.serving import two_ranks

GAMMA, VOCAB, PADDED, RANK, ROWS, TURNS, KEY, DEADLINE_S = 2, 100, 128, 8, 24, 6, 987654321, 900.0
# Of rounds that are counted, on the references; the kernels are interpreted for ``ROWS``.
MANY = 1000
DTYPES = ("float32", "bfloat16", "float16")
HEADS = ("VanillaMarkov", "DSparkV4MarkovHead")
# What stands in a padded column, where no token is.
PADDING = 99.0


class Group:
    """SGLang's ``GroupCoordinator`` and ``SpecTpSync`` over gloo, as far as drafting calls them.

    Attributes:
        gathered: Bytes that this rank gave to each gather.
        broadcasts: How many there were.
    """

    def __init__(self, number: int, count: int) -> None:
        import torch.distributed as dist

        self.world_size, self.rank_in_group, self.rank, self.ranks = count, number, number, tuple(range(count))
        self.cpu_group = dist.group.WORLD
        self.gathered: list[int] = []
        self.broadcasts = 0
        self._tp_group = self

    def all_gather(self, local: Any, dim: int) -> Any:
        import torch
        import torch.distributed as dist

        every = [torch.empty_like(local) for _ in self.ranks]
        dist.all_gather(every, local.contiguous())
        self.gathered.append(local.nbytes)
        return torch.cat(every, dim)

    def sync(self, site: object, values: Any) -> Any:
        import torch.distributed as dist

        self.broadcasts += 1
        dist.broadcast(values, src=0)
        return values


def start(count: int, number: int, folder: str) -> None:
    """One rank's process: writes what every scenario gave on it."""
    os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    from sglang_dspark.cpu_engine import early

    early.prepare([])
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # Memory that nobody wrote reads as NaN.
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=count)
    group = Group(number, count)
    found = {}
    with torch.no_grad():
        for head, dtype in itertools.product(HEADS, DTYPES):
            one = Drafter(group, head, getattr(torch, dtype))
            found[f"{head} {dtype}"] = one.against_sglang() | one.against_the_whole()
        for dtype in DTYPES:
            one = Drafter(group, HEADS[0], getattr(torch, dtype), near=560.0 if dtype == "float16" else 70.0)
            found[f"rounds {dtype}"] = one.first_tokens()
        found["disagree"] = Drafter(group, HEADS[0], torch.float32).where_rank_1_fails()
    Path(folder, f"rank-{number}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


class Drafter:
    """SGLang's head with a shard of the vocabulary, one like it without, and base logits for both."""

    def __init__(self, group: Group, head: str, dtype: Any, near: float | None = None) -> None:
        """
        Args:
            near: Where the logits lie; None for small integers, whose products are exact.
        """
        import torch
        from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
        from sglang.srt.models import deepseek_v4_dspark, dspark
        from sglang.srt.runtime_context import get_parallel

        torch.manual_seed(4)
        self.group, self.width, count = group, PADDED // group.world_size, group.world_size
        made_of = getattr(dspark, head, None) or getattr(deepseek_v4_dspark, head)
        self.whole, self.sharded = (made_of(vocab_size=VOCAB, markov_rank=RANK) for _ in range(2))
        w1 = torch.randint(-2, 3, (VOCAB, RANK)).float() if near is None else torch.randn(VOCAB, RANK)
        w2 = torch.randint(-2, 3, (VOCAB, RANK)).float() if near is None else torch.randn(VOCAB, RANK) * 0.4
        for one in (self.whole, self.sharded):
            one.markov_w1.weight.data = w1.to(dtype)
            one.markov_w2.weight.data = w2.to(dtype)
            one._opt_markov_w2_bf16 = dtype != torch.float32
        self.lm_head = SimpleNamespace(
            org_vocab_size=VOCAB,
            tp_size=count,
            num_embeddings_per_partition=self.width,
            num_embeddings_padded=PADDED,
            weight=torch.empty(0, dtype=dtype),
            shard_indices=VocabParallelEmbedding._get_indices(PADDED, PADDED, VOCAB, VOCAB, group.rank, count),
        )
        with get_parallel().override(tp_group=group):
            more = {"prefer_nvlink": False} if head == HEADS[0] else {}
            self.sharded.configure_tp_shard(lm_head=self.lm_head, **more)
        logits = torch.randint(-9, 10, (ROWS, GAMMA, VOCAB)).float()
        if near is not None:
            logits = (torch.randn(1, GAMMA, VOCAB) + near).expand(MANY, GAMMA, VOCAB)
        self.base = torch.nn.functional.pad(logits.to(dtype), (0, PADDED - VOCAB), value=PADDING)
        self.dtype = self.whole.step_logits_dtype(dtype)

    def install(self, sharded: bool, **server: Any) -> Any:
        """Puts our stages in use, as the hook after the proposer's construction does."""
        from unittest import mock

        import torch

        from dspark_kernels.startup import selfcheck
        from sglang_dspark.serving import kernels, settings
        from sglang_dspark.serving.evidence.offline import OneRank

        args = {"speculative_use_block_verification": False, "max_running_requests": MANY} | server
        proposer = SimpleNamespace(
            draft_model=SimpleNamespace(
                markov_head=self.sharded if sharded else self.whole, confidence_head=None, lm_head=self.lm_head
            ),
            draft_model_runner=SimpleNamespace(
                server_args=SimpleNamespace(**args),
                device="cpu",
                dtype=self.base.dtype,
                model_config=SimpleNamespace(hidden_size=16),
            ),
            noise=SimpleNamespace(key=KEY),
            gamma=GAMMA,
            _greedy_draft=False,
            _tp_sync=self.group if sharded else OneRank(),
        )
        settings.put("kernels", "ours")
        with mock.patch.object(selfcheck, "differing", lambda device, served: self.differing):
            kernels.install(None, proposer)
        ours = kernels._installed
        assert ours is not None and (ours.shard is not None) == sharded
        ours.requests[:MANY] = torch.arange(MANY)
        return ours

    differing: dict[str, str] = {}  # noqa: RUF012

    def draft(
        self, sharded: bool, ours: bool, temperature: float, graph: bool = True, rows: int = ROWS
    ) -> tuple[Any, Any]:
        """A block, by the hook or by SGLang alone."""
        import torch
        from sglang.srt.runtime_context import get_parallel
        from sglang.srt.speculative.dspark_components.dspark_draft import DraftNoise, draft_markov_block

        from sglang_dspark.serving import kernels
        from sglang_dspark.serving.evidence.offline import OneRank

        first = self.group.rank * self.width
        base = self.base[:rows, :, first : first + self.width] if sharded else self.base[:rows, :, :VOCAB]
        given: dict[str, Any] = {
            "markov_head": self.sharded if sharded else self.whole,
            "base_logits": base.contiguous(),
            "anchor_tokens": torch.arange(rows) % VOCAB,
            "draft_hidden": None,
            "step_temperatures": torch.full((rows,), temperature),
            "noise": DraftNoise(key=KEY, offset=torch.zeros(1, dtype=torch.int64)),
            "tp_sync": self.group if sharded else OneRank(),
            "logits_out": torch.empty((rows, GAMMA, VOCAB), dtype=self.dtype) if graph else None,
        }
        self.group.gathered.clear()
        self.group.broadcasts = 0
        with get_parallel().override(tp_group=OneRank()):
            if ours:
                return kernels.draft_markov_block(draft_markov_block, **given)
            return draft_markov_block(**given)

    def against_sglang(self) -> dict[str, Any]:
        """Greedy blocks, ours on shards beside SGLang's on shards and on the whole; and what each of them moves."""
        import torch

        self.install(True)
        theirs, kept = self.draft(False, False, 0.0)
        sharded, _ = self.draft(True, False, 0.0)
        upstream = self.group.gathered[:], self.group.broadcasts
        found, own = self.draft(True, True, 0.0)
        ours = self.group.gathered[:], self.group.broadcasts
        columns = slice(self.group.rank * self.width, min((self.group.rank + 1) * self.width, VOCAB))
        self.install(True, speculative_use_block_verification=True)
        again, whole = self.draft(True, True, 0.0)
        return {
            "tokens": [torch.equal(one, theirs) for one in (sharded, found, again)],
            "own columns": torch.equal(own[:, :, columns], kept[:, :, columns]),
            "all columns": torch.equal(whole, kept),
            "ours": ours,
            "SGLang's": upstream,
            "all gathered": self.group.gathered[:],
        }

    def against_the_whole(self) -> dict[str, Any]:
        """Sampled blocks of ours, on shards and on the whole: draws are named by token."""
        import torch

        self.install(False)
        wanted, _ = self.draft(False, True, 0.7)
        self.install(True)
        return {f"graph {graph}": torch.equal(self.draft(True, True, 0.7, graph)[0], wanted) for graph in (True, False)}

    def first_tokens(self) -> dict[str, Any]:
        """Counts of the first tokens of rounds, drafted and accepted on shards, and the target's probabilities.

        Rounds of many rows run on the references; two of few on the kernels as well, to the same tokens.
        """
        from unittest import mock

        import torch
        from sglang.srt.speculative.dspark_components.dspark_draft import DraftBlockResult
        from sglang.srt.speculative.dspark_components.dspark_sampling_accept_graph import GraphSamplingInfo

        from dspark_kernels import acceptance, draft
        from sglang_dspark.serving import kernels

        ours = self.install(True)
        self.whole.markov_w1.weight.data[:] = self.whole.markov_w1.weight.data[:1]
        self.sharded.markov_w1.weight.data[:] = self.whole.markov_w1.weight.data
        bias = self.whole.step_bias(torch.zeros(1, dtype=torch.int64), hidden_states=None, state=None)[0].float()
        base = self.base[:1, :, :VOCAB].float()
        target = torch.cat([base + bias[:, None], base[:, :1]], 1) + torch.randn(1, GAMMA + 1, VOCAB) * 0.3
        counts, per_round = torch.zeros(VOCAB), set()

        def one_round(turn: int, rows: int) -> torch.Tensor:
            ours.positions[:rows] = turn
            ones = torch.ones(rows)
            drafts, kept = self.draft(True, True, 1.0, graph=turn % 2 == 0, rows=rows)
            lengths, after, _ = kernels.accept_draft_tokens(
                lambda **given: pytest.fail("SGLang's"),
                candidates=torch.cat([(torch.arange(rows) % VOCAB)[:, None], drafts], 1),
                target_logits=target.expand(rows, GAMMA + 1, VOCAB).reshape(-1, VOCAB),
                draft_block=DraftBlockResult(
                    draft_tokens=drafts,
                    corrected_logits=kept,
                    greedy_mask=torch.zeros(rows, dtype=torch.bool),
                    temperatures=ones,
                    greedy_draft=False,
                ),
                sampling_info=GraphSamplingInfo(temperatures=ones[:, None]),
                gamma=GAMMA,
                verify_num_draft_tokens=GAMMA + 1,
            )
            per_round.add(tuple(size // rows for size in self.group.gathered))
            return torch.where(lengths > 0, drafts[:, 0], after)

        interpreted = [one_round(turn, ROWS) for turn in range(2)]
        same = []
        with (
            mock.patch.object(draft, "launches", lambda tensor: False),
            mock.patch.object(acceptance, "launches", lambda tensor: False),
        ):
            for turn in range(TURNS):
                tokens = one_round(turn, MANY)
                same += [torch.equal(tokens[:ROWS], interpreted[turn])] if turn < 2 else []
                counts += torch.bincount(tokens, minlength=VOCAB)
        p = torch.softmax(target[0, 0].double(), 0)
        return {"counts": counts.tolist(), "p": p.tolist(), "gathered": sorted(per_round), "same": same}

    def where_rank_1_fails(self) -> dict[str, Any]:
        """One rank's start-up check fails: no rank gathers by our rules where another does by SGLang's."""
        self.differing = {"draft": "draft: other tokens"} if self.group.rank == 1 else {}
        ours = self.install(True)
        drafts, _ = self.draft(True, True, 1.0)
        return {"stages": sorted(ours.stages), "drafts": drafts.tolist(), "broadcasts": self.group.broadcasts}


@pytest.fixture(scope="module", params=[2, 4], ids=["two ranks", "four ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return two_ranks.run(functools.partial(start, request.param), folder, DEADLINE_S, request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_shards_draft_what_sglang_drafts(ranks: list[dict[str, Any]], head: str, dtype: str) -> None:
    for found in (rank[f"{head} {dtype}"] for rank in ranks):
        assert found["tokens"] == [True] * 3
        assert found["own columns"] and found["all columns"]
        assert found["graph True"] and found["graph False"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_sixteen_bytes_a_row_are_gathered_for_a_position(ranks: list[dict[str, Any]], head: str, dtype: str) -> None:
    """SGLang gathers the logits where they are kept, and broadcasts each position."""
    size = 4 if dtype == "float32" or head == HEADS[1] else 2
    shard = ROWS * PADDED // len(ranks) * size
    for found in (rank[f"{head} {dtype}"] for rank in ranks):
        assert found["ours"] == [[16 * ROWS] * GAMMA, 1]
        assert found["SGLang's"] == [[shard] * GAMMA, GAMMA]
        # Block verification is SGLang's and reads all: once a block.
        assert found["all gathered"] == [16 * ROWS] * GAMMA + [GAMMA * shard]


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_tokens_are_distributed_as_the_target(ranks: list[dict[str, Any]], dtype: str) -> None:
    first, *others = (rank[f"rounds {dtype}"] for rank in ranks)
    assert all(other == first for other in others) and first["same"] == [True] * 2
    # Acceptance adds one gather of 8 bytes a row.
    assert first["gathered"] == [[16] * GAMMA + [8]]
    total = sum(first["counts"])
    wanted = [p * total for p in first["p"]]
    rare = [i for i in range(VOCAB) if wanted[i] < 5]
    observed, expected = (
        [one[i] for i in range(VOCAB) if i not in rare] + [sum(one[i] for i in rare)]
        for one in (first["counts"], wanted)
    )
    assert total == MANY * TURNS and stats.chisquare(observed, expected).pvalue > 1e-4


def test_ranks_that_disagree_fall_back_together(ranks: list[dict[str, Any]]) -> None:
    first, *others = (rank["disagree"] for rank in ranks)
    assert first["stages"] == ["confidence", "lengths"] and first["broadcasts"] == GAMMA
    assert all(other == first for other in others)
