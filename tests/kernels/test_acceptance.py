"""Acceptance over ragged rows: the reference's outcome, and outputs that are distributed as the target's."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from scipy import stats

from dspark_kernels.acceptance import Accepted, accept, reference_accept
from dspark_kernels.draft import draft_block, reference_draft_block
from dspark_kernels.heads import Kind
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.residual_scan import Proposal
from dspark_kernels.target_rows import launch_target_rows, reference_target_rows
from tests.kernels.draft_inputs import DTYPES, Block, block

SEED = 987654321
CUTS = (ScanConfig(16, 64, 4, 2, 6), ScanConfig(32, 128, 4, 1, 1))


class Case(NamedTuple):
    """A verified batch."""

    target: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    drafts: torch.Tensor
    proposal: Proposal
    temperatures: torch.Tensor
    top_ks: torch.Tensor
    top_ps: torch.Tensor
    given: Block


def case(seed: int, kind: Kind, dtype: torch.dtype, rows: int, gamma: int, vocab: int) -> Case:
    """A target near the proposal, so that drafts are accepted and refused."""
    given = block(seed, kind, dtype, rows, gamma, vocab, 16)
    random = torch.Generator().manual_seed(seed)
    hidden = None if kind == "vanilla" else given.head.from_hidden(given.hidden)
    drafted = reference_draft_block(
        given.head, given.logits, given.anchors, hidden, given.temperatures, given.requests, given.positions, SEED
    )
    lengths = torch.randint(0, gamma + 1, (rows,), generator=random).int()
    ends = (lengths + 1).cumsum(0)
    target = torch.randn(int(ends[-1]), vocab, generator=random)
    starts = ends - lengths - 1
    for r in range(rows):
        n = int(lengths[r])
        at = torch.arange(n)
        target[starts[r] : starts[r] + n] += given.logits[r, :n].float()
        target[starts[r] + at, drafted.tokens[r, :n]] += 3.0
    temperatures = torch.rand(rows, generator=random) + 0.2
    temperatures[1::4] = 0.0
    top_ks = torch.randint(1, 2 * vocab, (rows,), generator=random).int()
    top_ps = torch.rand(rows, generator=random)
    top_ps[::3] = 1.0
    proposal = Proposal(
        given.logits,
        drafted.log_sums,
        drafted.log_probs,
        given.temperatures,
        given.head,
        drafted.latents,
        given.anchors,
    )
    return Case(target.to(dtype), starts, lengths, drafted.tokens, proposal, temperatures, top_ks, top_ps, given)


def run(one: Case, top: bool, proposal: Proposal | None, **options: Any) -> tuple[Accepted, Accepted]:
    top_ks, top_ps = (one.top_ks, one.top_ps) if top else (None, None)
    names = one.given.requests, one.given.positions
    found = accept(
        one.target,
        one.starts,
        one.lengths,
        one.drafts,
        proposal,
        temperatures=one.temperatures,
        top_ks=top_ks,
        top_ps=top_ps,
        requests=names[0],
        positions=names[1],
        seed=SEED,
        **options,
    )
    wanted = reference_accept(
        one.target, one.starts, one.lengths, one.drafts, proposal, one.temperatures, top_ks, top_ps, *names, SEED
    )
    return found, wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["vanilla", "rnn"])
@pytest.mark.parametrize("top", [False, True])
def test_outcomes_are_the_references(kind: Kind, dtype: torch.dtype, top: bool) -> None:
    one = case(len(kind), kind, dtype, 19, 4, 150)
    for proposal in (one.proposal, None):
        for cut in CUTS[: 1 if top else 2]:
            found, wanted = run(one, top, proposal, scan=cut)
            assert torch.equal(found.lengths, wanted.lengths)
            assert torch.equal(found.tokens, wanted.tokens)
            rejected = int((found.lengths < one.lengths).sum())
            assert 0 < rejected < 19


@pytest.mark.parametrize(("w1", "w2"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_weights_of_two_dtypes(w1: torch.dtype, w2: torch.dtype) -> None:
    one = case(12, "vanilla", torch.float32, 19, 4, 150)
    assert one.proposal.head is not None
    head = one.proposal.head._replace(w1=one.given.head.w1.to(w1), w2=one.given.head.w2.to(w2))
    found, wanted = run(one, False, one.proposal._replace(head=head))
    assert torch.equal(found.lengths, wanted.lengths) and torch.equal(found.tokens, wanted.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounds_of_kept_logits_are_distributed_as_the_target(dtype: torch.dtype) -> None:
    """Drafts of logits that are kept in two bytes, accepted from what was kept, as a server with CUDA graphs does."""
    turns, rows, vocab, gamma = 20, 1000, 12, 2
    coarse = 1.0 if dtype == torch.bfloat16 else 8.0
    random = torch.Generator().manual_seed(9)
    given = block(9, "vanilla", dtype, 1, gamma, vocab, 8)
    # Logits that lie where the dtype is coarse: rounding moves them by up to 0.25.
    given = given._replace(logits=(torch.randn(1, gamma, vocab, generator=random) + 70.0 * coarse).to(dtype))
    before = given.logits.float() + (given.head.w1[given.anchors] @ given.head.w2.T).float()[:, None]
    target = torch.cat([before, before[:, :1]], 1) + torch.randn(1, gamma + 1, vocab, generator=random) * 0.3
    flat = target.expand(rows, gamma + 1, vocab).reshape(-1, vocab)
    logits, anchors = given.logits.expand(rows, gamma, vocab).contiguous(), given.anchors.expand(rows).contiguous()
    names, lengths = torch.arange(rows), torch.full((rows,), gamma, dtype=torch.int32)
    starts, ones = names * (gamma + 1), torch.ones(rows)
    kept = torch.empty_like(logits)
    counts = torch.zeros(vocab)
    for turn in range(turns):
        positions = torch.full((rows,), turn)
        drafted = reference_draft_block(given.head, logits, anchors, None, ones, names, positions, SEED, kept=kept)
        proposal = Proposal(kept, drafted.log_sums, drafted.log_probs, ones, None, None, anchors)
        found = reference_accept(
            flat, starts, lengths, drafted.tokens, proposal, ones, None, None, names, positions, SEED
        )
        counts += torch.bincount(torch.where(found.lengths > 0, drafted.tokens[:, 0], found.tokens), minlength=vocab)
    few = slice(0, 60)
    again = torch.empty_like(kept[few])
    named: dict[str, Any] = {"requests": names[few], "positions": positions[few], "seed": SEED}
    own = draft_block(given.head, logits[few], anchors[few], temperatures=ones[few], kept=again, **named)
    assert torch.equal(own.tokens, drafted.tokens[few]) and torch.equal(again, kept[few])
    proposal = Proposal(again, own.log_sums, own.log_probs, ones[few], None, None, anchors[few])
    ours = accept(flat, starts[few], lengths[few], own.tokens, proposal, temperatures=ones[few], **named)
    assert torch.equal(ours.tokens, found.tokens[few]) and torch.equal(ours.lengths, found.lengths[few])
    p = torch.softmax(target[0, 0].double(), 0)
    assert stats.chisquare(counts.double(), p * counts.sum()).pvalue > 1e-4


def test_kept_logits_give_the_same_outcome() -> None:
    one = case(3, "vanilla", torch.float32, 19, 4, 150)
    before = torch.cat([one.given.anchors[:, None], one.drafts[:, :-1]], 1)
    kept = one.given.logits + one.given.head.w1[before] @ one.given.head.w2.T
    again, _ = run(one, False, one.proposal)
    found, _ = run(one, False, one.proposal._replace(logits=kept, head=None))
    assert torch.equal(found.tokens, again.tokens) and torch.equal(found.lengths, again.lengths)


def test_nan_and_infinity_accept_nothing_and_draw_what_they_can() -> None:
    one = case(4, "vanilla", torch.float32, 8, 3, 150)
    target = one.target.clone()
    target[one.starts[0], 3] = torch.inf
    target[one.starts[1] :, 5] = torch.nan
    sums = one.proposal.log_sums.clone()
    probs = one.proposal.log_probs.clone()
    sums[2], probs[2] = torch.nan, torch.nan
    found, wanted = run(one._replace(target=target), False, one.proposal._replace(log_sums=sums, log_probs=probs))
    assert torch.equal(found.lengths, wanted.lengths) and torch.equal(found.tokens, wanted.tokens)
    assert (found.tokens >= 0).all() and (found.tokens < 150).all() and (found.tokens[1:] != 5).all()
    assert found.lengths[2] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_top_k_and_top_p_keep_what_sorting_keeps(dtype: torch.dtype) -> None:
    """bfloat16 logits have many equals, which are kept or dropped together."""
    random = torch.Generator().manual_seed(5)
    rows, vocab = 12, 1100
    logits = (torch.randn(rows, vocab, generator=random) * 3).to(dtype)
    ks = torch.tensor([1, 2, 50, 1100, 5000, 7, 1, 3, 400, 2000, 1099, 10], dtype=torch.int32)
    ps = torch.tensor([1.0, 0.5, 0.9, 0.1, 0.99, 1.0, 0.3, 0.7, 0.95, 1e-6, 0.2, 0.8])
    at = torch.rand(rows, generator=random) + 0.3
    zero = torch.zeros(rows, dtype=torch.int32)
    found = launch_target_rows(logits, torch.arange(rows), zero, 1, at, ks, ps)
    wanted = reference_target_rows(logits, at, ks, ps)
    scaled = logits.float() / at[:, None]
    near = 1e-5
    kept = (scaled >= found.thresholds[:, None] - near).sum(1)
    assert torch.equal(kept, (scaled >= wanted.thresholds[:, None] - near).sum(1))
    torch.testing.assert_close(found.log_sums, wanted.log_sums, atol=1e-4, rtol=1e-5)
    assert torch.equal(found.best, wanted.best)
    # By hand: probabilities after top-k, then the fewest that hold top-p, equals included.
    for r in range(rows):
        order = scaled[r].sort(descending=True).values.double()
        order = order[order >= order[min(int(ks[r]), vocab) - 1]]
        mass = torch.softmax(order, 0).cumsum(0)
        last = order[int((mass < ps[r].double() - 1e-6).sum().clamp(max=len(order) - 1))] if ps[r] < 1 else order[-1]
        assert kept[r] == (scaled[r] >= last - near).sum()


@pytest.mark.parametrize("top", [False, True])
def test_rounds_are_distributed_as_the_target(top: bool) -> None:
    """Draft, accept, draw: the first token of 20,000 rounds of the references, against the target's own distribution.

    The kernels' rounds are the references', some of them here again.
    """
    turns, rows, vocab, gamma = 20, 1000, 12, 2
    given = block(6, "vanilla", torch.float32, 1, gamma, vocab, 8)
    target = torch.randn(1, gamma + 1, vocab, generator=torch.Generator().manual_seed(7)) * 1.5
    flat = target.expand(rows, gamma + 1, vocab).reshape(-1, vocab)
    logits, anchors = given.logits.expand(rows, gamma, vocab).contiguous(), given.anchors.expand(rows).contiguous()
    names, lengths = torch.arange(rows), torch.full((rows,), gamma, dtype=torch.int32)
    starts = names * (gamma + 1)
    temperatures, at = torch.full((rows,), 0.9), torch.full((rows,), 0.8)
    top_ks = torch.full((rows,), 7, dtype=torch.int32) if top else None
    top_ps = torch.full((rows,), 0.9) if top else None
    counts = torch.zeros(vocab)
    for turn in range(turns):
        positions = torch.full((rows,), turn)
        drafted = reference_draft_block(given.head, logits, anchors, None, temperatures, names, positions, SEED)
        proposal = Proposal(logits, drafted.log_sums, drafted.log_probs, temperatures, given.head, None, anchors)
        found = reference_accept(
            flat, starts, lengths, drafted.tokens, proposal, at, top_ks, top_ps, names, positions, SEED
        )
        counts += torch.bincount(torch.where(found.lengths > 0, drafted.tokens[:, 0], found.tokens), minlength=vocab)
    few = slice(0, 40)
    again = accept(
        flat,
        starts[few],
        lengths[few],
        drafted.tokens[few],
        Proposal(*(one[few] for one in proposal[:4]), given.head, None, anchors[few]),
        temperatures=at[few],
        top_ks=None if top_ks is None else top_ks[few],
        top_ps=None if top_ps is None else top_ps[few],
        requests=names[few],
        positions=positions[few],
        seed=SEED,
    )
    assert torch.equal(again.tokens, found.tokens[few]) and torch.equal(again.lengths, found.lengths[few])
    p = torch.softmax(target[0, 0].double() / 0.8, 0)
    if top:
        p[p < p.sort(descending=True).values[6]] = 0.0
        p /= p.sum()
        order = p.sort(descending=True)
        p[order.indices[int((order.values.cumsum(0) < 0.9).sum()) + 1 :]] = 0.0
        p /= p.sum()
    assert counts[p == 0].sum() == 0
    assert stats.chisquare(counts[p > 0].double(), p[p > 0] * counts.sum()).pvalue > 1e-4
