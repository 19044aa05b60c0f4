"""Ranks that each scan a shard of the vocabulary draft and accept as one rank with the whole vocabulary does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dspark_kernels import acceptance, draft
from dspark_kernels.acceptance import Accepted
from dspark_kernels.batches import DraftBatch, VerifiedBatch
from dspark_kernels.heads import Kind, Shard
from dspark_kernels.markov_finish import DraftOutputs
from tests.kernels.draft_inputs import DTYPES, block, integers
from tests.kernels.ranks import Ranks
from tests.kernels.test_acceptance import case, whole

VOCAB = 226
# Uneven shards, as padding makes them; the last has two tokens.
EDGES = ((0, 128, VOCAB), (0, 64, 128, 224, VOCAB))


@pytest.fixture(params=[True, False], ids=["kernels", "references"])
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        for module in (draft, acceptance):
            monkeypatch.setattr(module, "launches", lambda tensor: False)


def drafted(given: DraftBatch, shard: Shard | None, **options: Any) -> DraftOutputs:
    columns = slice(None) if shard is None else shard.columns
    if (kept := options.pop("kept", None)) is not None:
        options["kept"] = kept[:, :, columns]
    head = given.head._replace(w2=given.head.w2[columns])
    own = given._replace(head=head, base_logits=given.base_logits[:, :, columns])
    return draft.draft_block(own, shard=shard, **options)


def alike(ranks: list[DraftOutputs], whole: DraftOutputs) -> None:
    for ours in ranks:
        assert torch.equal(ours.tokens, whole.tokens)
        for name in ("log_probs", "log_sums"):
            one, expected = getattr(ours, name), getattr(whole, name)
            torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-5, equal_nan=True)
            # The inputs of acceptance are bit-identical on all ranks.
            assert torch.equal(one.view(torch.int32), getattr(ranks[0], name).view(torch.int32))


@pytest.mark.parametrize("edges", EDGES, ids=["two ranks", "four ranks"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn"])
def test_blocks_are_those_of_the_whole_vocabulary(launched: None, kind: Kind, dtype: torch.dtype, edges: Any) -> None:
    given = block(9, kind, dtype, 19, 3, VOCAB, 16)
    ranks = Ranks(edges)
    alike(ranks.run(lambda shard: drafted(given, shard)), drafted(given, None))
    # 16 bytes a row and position for any vocabulary.
    assert ranks.gathered == [(4, 19)] * 3


@pytest.mark.parametrize("edges", EDGES, ids=["two ranks", "four ranks"])
def test_equal_logits_of_two_shards_go_to_the_lowest_token(launched: None, edges: Any) -> None:
    given = integers(block(6, "vanilla", torch.float32, 12, 3, VOCAB, 8))
    given = given._replace(temperatures=torch.zeros(12))
    given.base_logits[:3] = 0.0
    given.head.w1.zero_()
    whole = drafted(given, None, sample=False)
    assert whole.tokens[:3].eq(0).all() and whole.tokens[3:].gt(0).any()
    alike(Ranks(edges).run(lambda shard: drafted(given, shard, sample=False)), whole)


def test_rows_of_nan_and_infinities(launched: None) -> None:
    given = block(7, "vanilla", torch.float32, 6, 1, VOCAB, 16)
    logits = given.base_logits
    logits[0, 0, 7] = logits[1, 0, 190] = torch.nan
    logits[2, 0] = torch.nan
    logits[3, 0] = -torch.inf
    logits[3, 0, 225] = 0.0
    logits[4, 0, 66] = torch.inf
    logits[5, 0, 64:] = -torch.inf
    ours = Ranks(EDGES[1]).run(lambda shard: drafted(given, shard))
    alike(ours, drafted(given, None))
    assert ours[0].tokens[:5, 0].tolist() == [7, 190, 0, 225, 66]
    assert ours[0].log_sums[[0, 1, 2, 4], 0].isnan().all() and ours[0].log_sums[[3, 5], 0].isfinite().all()


@pytest.mark.parametrize("edges", EDGES, ids=["two ranks", "four ranks"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranks_keep_their_columns_side_by_side(launched: None, dtype: torch.dtype, edges: Any) -> None:
    """Bitwise comparison, with integer weights so that products do not depend on their order."""
    given = integers(block(10, "vanilla", dtype, 12, 3, VOCAB, 16))
    kept, expected = torch.empty((2, *given.base_logits.shape), dtype=dtype)
    alike(Ranks(edges).run(lambda shard: drafted(given, shard, kept=kept)), drafted(given, None, kept=expected))
    assert torch.equal(kept, expected)


def accepted(one: VerifiedBatch, shard: Shard | None, how: str) -> Accepted:
    """``how``: the proposal is recomputed from base logits and ``W2``, or read from kept logits."""
    columns = slice(None) if shard is None else shard.columns
    assert one.proposal is not None and one.proposal.head is not None
    proposal, head = one.proposal, one.proposal.head
    if how == "recomputed":
        proposal = proposal._replace(head=head._replace(w2=head.w2[columns]))
    else:
        one = whole(one)
        before = torch.cat([proposal.anchors[:, None], one.drafts[:, :-1]], 1)
        latents = head.w1[before].float() if proposal.latents is None else proposal.latents.float()
        proposal = proposal._replace(logits=proposal.logits.float() + latents @ head.w2.float().T, head=None)
    proposal = proposal._replace(logits=proposal.logits[:, :, columns], shard=shard)
    return acceptance.accept(one._replace(proposal=proposal))


@pytest.mark.parametrize("edges", EDGES, ids=["two ranks", "four ranks"])
@pytest.mark.parametrize("how", ["recomputed", "kept"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["vanilla", "rnn"])
def test_outcomes_are_those_of_the_whole_vocabulary(
    launched: None, kind: Kind, dtype: torch.dtype, how: str, edges: Any
) -> None:
    one = case(len(kind), kind, dtype, 19, 4, VOCAB)
    expected, ranks = accepted(one, None, how), Ranks(edges)
    for ours in ranks.run(lambda shard: accepted(one, shard, how)):
        assert torch.equal(ours.lengths, expected.lengths) and torch.equal(ours.tokens, expected.tokens)
    assert ranks.gathered == [(2, 19)]
    assert 0 < int((expected.lengths < one.lengths).sum()) < 19
