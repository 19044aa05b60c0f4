"""Steps without a draft through SGLang's acceptance: the target's distribution, from the anchors' rows alone."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from sglang_dspark.cpu_engine import sampling
from sglang_dspark.serving import step_hooks
from sglang_dspark.serving.evidence.offline import OneRank

ROWS, GAMMA, VOCAB = 4000, 3, 12


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Any:
    """SGLang's acceptance, with the CPU's form of its chain."""
    from sglang.kernels.ops.speculative.dspark import dspark_accept
    from sglang.srt.speculative.dspark_components import dspark_verify

    chain = functools.partial(sampling.chain_speculative_sampling, lambda *given: None)
    monkeypatch.setattr(dspark_accept, "chain_speculative_sampling_triton", chain)
    return dspark_verify


def info(greedy: str, top_k: int = VOCAB) -> Any:
    """Sampling parameters of a batch whose rows are all greedy, all sampled or by turns."""
    top_ks = torch.full((ROWS,), top_k, dtype=torch.int32)
    if greedy == "all":
        top_ks[:] = 1
    elif greedy == "some":
        top_ks[::2] = 1
    return SimpleNamespace(
        temperatures=torch.full((ROWS, 1), 0.8),
        top_ks=top_ks,
        top_ps=torch.ones(ROWS),
        is_all_greedy=greedy == "all",
        is_any_greedy=greedy != "none",
        need_top_k_sampling=greedy == "some" or top_k < VOCAB,
        need_top_p_sampling=False,
    )


def rest(sampling_info: Any, sampler: object = None) -> Any:
    """The proposal of a step in which the policy rests the drafter."""
    proposer = SimpleNamespace(
        draft_block_ids_view=lambda bs, device: torch.zeros((bs, GAMMA), dtype=torch.int64),
        gamma=GAMMA,
        sample_from_anchor=True,
        _draft_sampler=sampler,
    )
    return step_hooks._no_draft(
        proposer,
        batch=SimpleNamespace(seq_lens=torch.ones(ROWS)),
        draft_input=SimpleNamespace(bonus_tokens=torch.arange(ROWS) % VOCAB),
        bs=ROWS,
        sampling_info=sampling_info,
    )


@pytest.mark.parametrize("greedy", ["none", "some", "all"])
@pytest.mark.parametrize("top_k", [VOCAB, 5])
def test_a_rest_draws_from_the_target_and_reads_its_first_rows_only(
    upstream: Any, monkeypatch: pytest.MonkeyPatch, greedy: str, top_k: int
) -> None:
    torch.manual_seed(4)
    first = torch.randn(VOCAB) * 1.5
    # What was not verified holds anything.
    logits = torch.full((ROWS, GAMMA + 1, VOCAB), float("nan"))
    logits[:, 0] = first
    sampling_info = info(greedy, top_k)
    proposal = rest(sampling_info)
    made: list[int] = []
    probabilities = upstream._draft_probs

    def noted(*given: Any) -> torch.Tensor:
        found: torch.Tensor = probabilities(*given)
        made.append(found.numel())
        return found

    monkeypatch.setattr(upstream, "_draft_probs", noted)
    lengths, tokens, trimmed = step_hooks.accept_draft_tokens(
        upstream.accept_draft_tokens,
        candidates=torch.cat([proposal.draft_block_ids[:, :1], proposal.draft_block.draft_tokens], 1),
        target_logits=logits.view(-1, VOCAB),
        draft_block=proposal.draft_block,
        sampling_info=sampling_info,
        draft_input=SimpleNamespace(max_top_k=top_k, uniform_top_k_value=None),
        gamma=GAMMA,
        verify_num_draft_tokens=GAMMA + 1,
        cutoff_layout=SimpleNamespace(verify_lens=torch.ones(ROWS, dtype=torch.int32)),
    )
    assert not lengths.any() and not trimmed.any() and tokens.shape == (ROWS,)
    assert made == ([] if greedy == "all" else [0]), "a one-hot distribution of drafts that do not exist"
    is_greedy = sampling_info.top_ks <= 1
    assert (tokens[is_greedy] == first.argmax()).all()
    if greedy != "all":
        kept = first.double().masked_fill(first < first.sort(descending=True).values[top_k - 1], -torch.inf)
        p = torch.softmax(kept / 0.8, 0)
        counts = torch.bincount(tokens[~is_greedy], minlength=VOCAB)
        assert counts[p == 0].sum() == 0
        assert stats.chisquare(counts[p > 0].double(), p[p > 0] * counts.sum()).pvalue > 1e-4


def test_a_step_with_a_draft_is_sglangs(upstream: Any) -> None:
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftBlockResult

    block = DraftBlockResult(torch.zeros(1, 1), None, torch.zeros(1), torch.ones(1), True)
    given = {"draft_block": block, "candidates": torch.zeros(1, 2)}
    assert step_hooks.accept_draft_tokens(lambda **found: found, **given) == given


@pytest.mark.parametrize(("greedy", "sampler", "folded"), [("all", 1, True), ("all", None, False), ("some", 1, False)])
def test_a_greedy_rest_ends_in_the_verify_graph_where_drafts_do(greedy: str, sampler: object, folded: bool) -> None:
    """SGLang takes the graph's acceptance of a proposal that is folded, and else repeats it eagerly."""
    assert rest(info(greedy), sampler).folded is folded
    assert rest(None, sampler).folded is (sampler is not None)


def test_the_graphs_acceptance_of_a_rest_is_the_targets_argmax() -> None:
    """SGLang's own epilogue as a graph runs it, over what drafts an earlier step has left in its buffers."""
    from sglang.srt.speculative.dspark_components.dspark_verify import DsparkVerifyEpilogue

    rows, stride = 5, GAMMA + 1
    epilogue = DsparkVerifyEpilogue(max_bs=rows, verify_num_draft_tokens=stride, device="cpu", tp_sync=OneRank())
    torch.manual_seed(5)
    logits = torch.zeros(rows, stride, VOCAB)
    logits[:, 0] = torch.randn(rows, VOCAB)
    logits[0, 0, 0] = 9.0  # Token 0, which padding holds too.
    anchors = torch.zeros(rows, stride, dtype=torch.int64)
    anchors[:, 0] = torch.arange(rows)
    epilogue._accept(
        candidates=anchors,
        logits=logits.view(-1, VOCAB),
        draft_tokens=torch.randint(1, VOCAB, (rows, GAMMA)),
        seq_lens=torch.full((rows,), 7),
        cutoff_verify_lens=torch.ones(rows, dtype=torch.int32),
    )
    accept = epilogue.read_accept(rows)
    assert accept.commit_lens.tolist() == [1] * rows
    assert torch.equal(accept.bonus, logits[:, 0].argmax(1)) and torch.equal(accept.out_tokens[:, 0], accept.bonus)
