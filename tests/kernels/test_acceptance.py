"""Acceptance over ragged rows: equal to the reference, with outputs distributed as the target's."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from dspark_kernels.acceptance import Accepted, accept, reference_accept
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.draft import draft_block, reference_draft_block
from dspark_kernels.heads import Kind
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_finish import DraftOutputs
from dspark_kernels.target_rows import launch_target_rows, reference_target_rows
from tests.kernels.draft_inputs import DTYPES, block

SEED = 987654321
# Shapes of the rounds in the distribution tests.
VOCAB, GAMMA = 12, 2
CUTS = (ScanConfig(16, 64, 4, 2, 6), ScanConfig(32, 128, 4, 1, 1))


def case(seed: int, kind: Kind, dtype: torch.dtype, rows: int, gamma: int, vocab: int) -> VerifiedBatch:
    """A batch whose target is near the proposal, so that some drafts are accepted and some rejected."""
    given = block(seed, kind, dtype, rows, gamma, vocab, 16)._replace(seed=SEED)
    random = torch.Generator().manual_seed(seed)
    drafted = reference_draft_block(given)
    lengths = torch.randint(0, gamma + 1, (rows,), generator=random).int()
    ends = (lengths + 1).cumsum(0)
    target = torch.randn(int(ends[-1]), vocab, generator=random)
    starts = ends - lengths - 1
    for r in range(rows):
        n = int(lengths[r])
        at = torch.arange(n)
        target[starts[r] : starts[r] + n] += given.base_logits[r, :n].float()
        target[starts[r] + at, drafted.tokens[r, :n]] += 3.0
    temperatures = torch.rand(rows, generator=random) + 0.2
    temperatures[1::4] = 0.0
    top_ks = torch.randint(1, 2 * vocab, (rows,), generator=random).int()
    top_ps = torch.rand(rows, generator=random)
    top_ps[::3] = 1.0
    proposal = KeptProposal(
        given.base_logits,
        drafted.log_sums,
        drafted.log_probs,
        given.temperatures,
        given.head,
        drafted.latents,
        given.anchors,
    )
    return VerifiedBatch(
        target.to(dtype),
        starts,
        lengths,
        drafted.tokens,
        proposal,
        temperatures,
        given.requests,
        given.positions,
        SEED,
        top_ks,
        top_ps,
    )


def whole(one: VerifiedBatch) -> VerifiedBatch:
    """The same batch without top-k and top-p."""
    return one._replace(top_ks=None, top_ps=None)


def matches(one: VerifiedBatch, scan: ScanConfig | None = None) -> Accepted:
    """Assert that the kernels' result equals the reference's, and return it."""
    ours, expected = accept(one, scan), reference_accept(one)
    assert torch.equal(ours.lengths, expected.lengths) and torch.equal(ours.tokens, expected.tokens)
    return ours


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["vanilla", "rnn"])
@pytest.mark.parametrize("top", [False, True])
def test_outcomes_are_the_references(kind: Kind, dtype: torch.dtype, top: bool) -> None:
    one = case(len(kind), kind, dtype, 19, 4, 150)
    one = one if top else whole(one)
    for proposal in (one.proposal, None):
        for cut in CUTS[: 1 if top else 2]:
            ours = matches(one._replace(proposal=proposal), cut)
            rejected = int((ours.lengths < one.lengths).sum())
            assert 0 < rejected < 19


@pytest.mark.parametrize(("w1", "w2"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_weights_of_two_dtypes(w1: torch.dtype, w2: torch.dtype) -> None:
    one = whole(case(12, "vanilla", torch.float32, 19, 4, 150))
    assert one.proposal is not None and one.proposal.head is not None
    head = one.proposal.head._replace(w1=one.proposal.head.w1.to(w1), w2=one.proposal.head.w2.to(w2))
    matches(one._replace(proposal=one.proposal._replace(head=head)))


def first_tokens(
    given: DraftBatch,
    target: torch.Tensor,
    temperature: torch.Tensor,
    few: int,
    keep: bool = False,
    top_ks: torch.Tensor | None = None,
    top_ps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Count the first token of 20,000 reference rounds, and assert that the kernels repeat ``few`` of them exactly.

    Args:
        given: One request, drafted 1,000 times at each of 20 positions.
        target: Target logits [1, gamma + 1, V].
        temperature, top_ks, top_ps: Of the target, [1].
        keep: Keep corrected logits for acceptance.
    """
    turns, rows = 20, 1000
    names, lengths = torch.arange(rows), torch.full((rows,), GAMMA, dtype=torch.int32)
    each = torch.zeros(rows, dtype=torch.int64)
    batch = given.at(each)._replace(requests=names, seed=SEED)
    flat = target.expand(rows, GAMMA + 1, VOCAB).reshape(-1, VOCAB)
    limits = tuple(None if limit is None else limit[each] for limit in (top_ks, top_ps))
    counts = torch.zeros(VOCAB)

    def verified(batch: DraftBatch, drafted: DraftOutputs, kept: torch.Tensor | None) -> VerifiedBatch:
        logits, head = (batch.base_logits, batch.head) if kept is None else (kept, None)
        sums, at = (drafted.log_sums, drafted.log_probs), batch.temperatures
        proposal = KeptProposal(logits, *sums, at, head, None, batch.anchors)
        n = len(batch.anchors)
        own = tuple(None if limit is None else limit[:n] for limit in limits)
        first = names[:n] * (GAMMA + 1), lengths[:n], drafted.tokens, proposal, temperature.expand(n).contiguous()
        return VerifiedBatch(flat, *first, batch.requests, batch.positions, SEED, *own)

    for turn in range(turns):
        batch = batch._replace(positions=torch.full((rows,), turn))
        kept = torch.empty_like(batch.base_logits) if keep else None
        drafted = reference_draft_block(batch, kept=kept)
        accepted = reference_accept(verified(batch, drafted, kept))
        first = torch.where(accepted.lengths > 0, drafted.tokens[:, 0], accepted.tokens)
        counts += torch.bincount(first, minlength=VOCAB)
    part = batch.at(slice(few))
    again = None if kept is None else torch.empty_like(kept[:few])
    own = draft_block(part, kept=again)
    assert torch.equal(own.tokens, drafted.tokens[:few])
    assert again is None or kept is None or torch.equal(again, kept[:few])
    repeated = accept(verified(part, own, again))
    assert torch.equal(repeated.tokens, accepted.tokens[:few])
    assert torch.equal(repeated.lengths, accepted.lengths[:few])
    return counts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounds_of_kept_logits_are_distributed_as_the_target(dtype: torch.dtype) -> None:
    """Drafts from logits kept in two bytes, accepted from the kept logits, as in a server with CUDA graphs."""
    coarse = 1.0 if dtype == torch.bfloat16 else 8.0
    random = torch.Generator().manual_seed(9)
    given = block(9, "vanilla", dtype, 1, GAMMA, VOCAB, 8)
    # Logits near 70, where the dtype is coarse: rounding moves them by up to 0.25.
    given = given._replace(base_logits=(torch.randn(1, GAMMA, VOCAB, generator=random) + 70.0 * coarse).to(dtype))
    before = given.base_logits.float() + (given.head.w1[given.anchors] @ given.head.w2.T).float()[:, None]
    target = torch.cat([before, before[:, :1]], 1) + torch.randn(1, GAMMA + 1, VOCAB, generator=random) * 0.3
    counts = first_tokens(given._replace(temperatures=torch.ones(1)), target, torch.ones(1), few=60, keep=True)
    p = torch.softmax(target[0, 0].double(), 0)
    assert stats.chisquare(counts.double(), p * counts.sum()).pvalue > 1e-4


def test_kept_logits_give_the_same_outcome() -> None:
    one = whole(case(3, "vanilla", torch.float32, 19, 4, 150))
    assert one.proposal is not None and one.proposal.head is not None
    before = torch.cat([one.proposal.anchors[:, None], one.drafts[:, :-1]], 1)
    kept = one.proposal.logits + one.proposal.head.w1[before] @ one.proposal.head.w2.T
    again = accept(one)
    ours = accept(one._replace(proposal=one.proposal._replace(logits=kept, head=None)))
    assert torch.equal(ours.tokens, again.tokens) and torch.equal(ours.lengths, again.lengths)


def test_nan_and_infinity_accept_nothing_and_draw_what_they_can() -> None:
    one = whole(case(4, "vanilla", torch.float32, 8, 3, 150))
    assert one.proposal is not None
    target = one.target_logits.clone()
    target[one.starts[0], 3] = torch.inf
    target[one.starts[1] :, 5] = torch.nan
    sums = one.proposal.log_sums.clone()
    probs = one.proposal.log_probs.clone()
    sums[2], probs[2] = torch.nan, torch.nan
    proposal = one.proposal._replace(log_sums=sums, log_probs=probs)
    ours = matches(one._replace(target_logits=target, proposal=proposal))
    assert (ours.tokens >= 0).all() and (ours.tokens < 150).all() and (ours.tokens[1:] != 5).all()
    assert ours.lengths[2] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_top_k_and_top_p_keep_what_sorting_keeps(dtype: torch.dtype) -> None:
    """Ties, of which bfloat16 logits have many, are kept or dropped together."""
    random = torch.Generator().manual_seed(5)
    rows, vocab = 12, 1100
    logits = (torch.randn(rows, vocab, generator=random) * 3).to(dtype)
    ks = torch.tensor([1, 2, 50, 1100, 5000, 7, 1, 3, 400, 2000, 1099, 10], dtype=torch.int32)
    ps = torch.tensor([1.0, 0.5, 0.9, 0.1, 0.99, 1.0, 0.3, 0.7, 0.95, 1e-6, 0.2, 0.8])
    at = torch.rand(rows, generator=random) + 0.3
    zero = torch.zeros(rows, dtype=torch.int32)
    names, drafts = torch.arange(rows), torch.zeros(rows, 1, dtype=torch.int64)
    ours = launch_target_rows(VerifiedBatch(logits, names, zero, drafts, None, at, names, names, SEED, ks, ps))
    expected = reference_target_rows(logits, at, ks, ps)
    scaled = logits.float() / at[:, None]
    near = 1e-5
    kept = (scaled >= ours.thresholds[:, None] - near).sum(1)
    assert torch.equal(kept, (scaled >= expected.thresholds[:, None] - near).sum(1))
    torch.testing.assert_close(ours.log_sums, expected.log_sums, atol=1e-4, rtol=1e-5)
    assert torch.equal(ours.best, expected.best)
    # Independently: probabilities after top-k, then the smallest set with a mass of top-p, ties included.
    for r in range(rows):
        order = scaled[r].sort(descending=True).values.double()
        order = order[order >= order[min(int(ks[r]), vocab) - 1]]
        mass = torch.softmax(order, 0).cumsum(0)
        last = order[int((mass < ps[r].double() - 1e-6).sum().clamp(max=len(order) - 1))] if ps[r] < 1 else order[-1]
        assert kept[r] == (scaled[r] >= last - near).sum()


@pytest.mark.parametrize("top", [False, True])
def test_rounds_are_distributed_as_the_target(top: bool) -> None:
    """Chi-square of the first token of 20,000 rounds against the target's distribution."""
    given = block(6, "vanilla", torch.float32, 1, GAMMA, VOCAB, 8)._replace(temperatures=torch.full((1,), 0.9))
    target = torch.randn(1, GAMMA + 1, VOCAB, generator=torch.Generator().manual_seed(7)) * 1.5
    top_ks, top_ps = (torch.full((1,), 7, dtype=torch.int32), torch.full((1,), 0.9)) if top else (None, None)
    counts = first_tokens(given, target, torch.full((1,), 0.8), few=40, top_ks=top_ks, top_ps=top_ps)
    p = torch.softmax(target[0, 0].double() / 0.8, 0)
    if top:
        p[p < p.sort(descending=True).values[6]] = 0.0
        p /= p.sum()
        order = p.sort(descending=True)
        p[order.indices[int((order.values.cumsum(0) < 0.9).sum()) + 1 :]] = 0.0
        p /= p.sum()
    assert counts[p == 0].sum() == 0
    assert stats.chisquare(counts[p > 0].double(), p[p > 0] * counts.sum()).pvalue > 1e-4
