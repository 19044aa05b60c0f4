"""Rounds through SGLang's drafting and acceptance calls in the dtypes of a GPU server: outputs follow the target."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from sglang_dspark.cpu_engine import sampling
from sglang_dspark.serving import kernels
from sglang_dspark.serving.evidence.offline import OneRank

ROWS, TURNS, GAMMA, VOCAB, RANK = 1000, 20, 2, 12, 8
KEY = 987654321


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """SGLang's acceptance, with the CPU's form of its chain; nothing of ours stays installed."""
    from sglang.kernels.ops.speculative.dspark import dspark_accept
    from sglang.srt.speculative.dspark_components import dspark_verify

    chain = functools.partial(sampling.chain_speculative_sampling, lambda *given: None)
    monkeypatch.setattr(dspark_accept, "chain_speculative_sampling_triton", chain)
    monkeypatch.setattr(kernels, "_installed", None)
    yield dspark_verify


def install(markov_head: Any, stages: frozenset[str]) -> None:
    """Puts our stages in use for a head, as the hook after the proposer's construction does."""
    proposer = SimpleNamespace(
        draft_model=SimpleNamespace(markov_head=markov_head),
        draft_model_runner=SimpleNamespace(
            server_args=SimpleNamespace(speculative_use_block_verification=False), device="cpu"
        ),
        noise=SimpleNamespace(key=KEY),
        gamma=GAMMA,
    )
    head = kernels.made_head(markov_head)
    assert not isinstance(head, str), head
    kernels._installed = kernels.Installed(proposer, stages, head)
    kernels._installed.requests[:ROWS] = torch.arange(ROWS)


@pytest.mark.parametrize("w2", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("w1", [torch.bfloat16, torch.float32], ids=str)
def test_the_head_of_deepseek_v4_drafts_what_sglang_drafts(
    upstream: Any, monkeypatch: pytest.MonkeyPatch, w1: torch.dtype, w2: torch.dtype
) -> None:
    """Small integers for weights, so that products are exact in any dtype and order; greedy rows have no noise."""
    from sglang.srt.models.deepseek_v4_dspark import DSparkV4MarkovHead
    from sglang.srt.runtime_context import get_parallel
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftNoise, draft_markov_block

    monkeypatch.setenv("SGLANG_DSPARK_OPT_MARKOV_W2_BF16", str(int(w2 == torch.bfloat16)))
    torch.manual_seed(1)
    head = DSparkV4MarkovHead(vocab_size=100, markov_rank=RANK)
    assert head.markov_w1.weight.shape == (128, RANK)  # Padded.
    head.markov_w1.weight.data = torch.randint(-2, 3, (128, RANK)).to(w1)
    head.markov_w2.weight.data = torch.randint(-2, 3, (100, RANK)).to(w2)
    install(head, frozenset({"draft"}))
    rows = 40
    named: dict[str, Any] = {
        "markov_head": head,
        "base_logits": torch.randint(-9, 10, (rows, GAMMA, 100)).float(),
        "anchor_tokens": torch.randint(0, 100, (rows,)),
        "draft_hidden": None,
        "step_temperatures": torch.zeros(rows),
        "noise": DraftNoise(key=KEY, offset=torch.zeros(1, dtype=torch.int64)),
        "tp_sync": OneRank(),
    }
    with torch.no_grad(), get_parallel().override(tp_group=OneRank()):
        theirs, logits = draft_markov_block(**named)
        ours, kept = kernels.draft_markov_block(draft_markov_block, **named)
    assert torch.equal(ours, theirs)
    assert kept.dtype == logits.dtype == torch.float32 and torch.equal(kept, logits)


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("stages", [("draft", "accept"), ("draft",), ()], ids=["ours", "our draft", "SGLang"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_first_tokens_are_distributed_as_the_target(
    upstream: Any, stages: tuple[str, ...], dtype: torch.dtype, graph: bool
) -> None:
    """The logits lie where the dtype is coarse: what rounding leaves out of a proposal would be off by a quarter."""
    from sglang.srt.models.dspark import VanillaMarkov
    from sglang.srt.speculative.dspark_components.dspark_draft import (
        DraftBlockResult,
        DraftNoise,
        draft_markov_block,
    )
    from sglang.srt.speculative.dspark_components.dspark_sampling_accept_graph import GraphSamplingInfo

    torch.manual_seed(9)
    head = VanillaMarkov(vocab_size=VOCAB, markov_rank=RANK).to(dtype)
    torch.nn.init.normal_(head.markov_w1.weight)
    torch.nn.init.normal_(head.markov_w2.weight, std=0.4)
    near = 560.0 if dtype == torch.float16 else 70.0
    base = (torch.randn(1, GAMMA, VOCAB) + near).to(dtype)
    with torch.no_grad():
        bias = head.step_bias(torch.zeros(1, dtype=torch.int64), hidden_states=None, state=None)[0].float()
    target = torch.cat([base.float() + bias[:, None], base[:, :1].float()], 1) + torch.randn(1, GAMMA + 1, VOCAB) * 0.3
    install(head, frozenset(stages))
    ours = kernels._installed
    assert ours is not None
    ones, anchors = torch.ones(ROWS), torch.zeros(ROWS, dtype=torch.int64)
    noise = DraftNoise(key=KEY, offset=torch.zeros(1, dtype=torch.int64))
    buffer = torch.empty((ROWS, GAMMA, VOCAB), dtype=head.step_logits_dtype(dtype)) if graph else None
    counts = torch.zeros(VOCAB)
    for turn in range(TURNS):
        ours.positions[:ROWS] = turn
        with torch.no_grad():
            drafts, kept = kernels.draft_markov_block(
                draft_markov_block,
                markov_head=head,
                base_logits=base.expand(ROWS, GAMMA, VOCAB).contiguous(),
                anchor_tokens=anchors,
                draft_hidden=None,
                step_temperatures=ones,
                noise=noise,
                tp_sync=OneRank(),
                logits_out=buffer,
            )
        lengths, after, _ = kernels.accept_draft_tokens(
            upstream.accept_draft_tokens,
            candidates=torch.cat([anchors[:, None], drafts], 1),
            target_logits=target.expand(ROWS, GAMMA + 1, VOCAB).reshape(-1, VOCAB),
            draft_block=DraftBlockResult(
                draft_tokens=drafts,
                corrected_logits=kept,
                greedy_mask=torch.zeros(ROWS, dtype=torch.bool),
                temperatures=ones,
                greedy_draft=False,
            ),
            sampling_info=GraphSamplingInfo(temperatures=ones[:, None]),
            draft_input=None,
            gamma=GAMMA,
            verify_num_draft_tokens=GAMMA + 1,
        )
        counts += torch.bincount(torch.where(lengths > 0, drafts[:, 0], after), minlength=VOCAB)
    p = torch.softmax(target[0, 0].double(), 0)
    assert stats.chisquare(counts.double(), p * counts.sum()).pvalue > 1e-4
