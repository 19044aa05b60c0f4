"""Draft blocks against the PyTorch reference and the exact distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dspark_kernels import launch_configs
from dspark_kernels.batches import DraftBatch
from dspark_kernels.draft import draft_block, reference_draft_block, worth_keeping
from dspark_kernels.heads import Kind, reference_latent
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_finish import DraftOutputs, reference_finish
from dspark_kernels.markov_scan import reference_scan
from tests.kernels.draft_inputs import DTYPES, block, integers

# One and several tiles, parts and blocks of rows, none of which divides the shapes.
CUTS = (
    ScanConfig(16, 64, 4, 2, 6),
    ScanConfig(32, 128, 4, 1, 1),
    ScanConfig(16, 32, 4, 2, 40),
)


def same(ours: DraftOutputs, expected: DraftOutputs) -> None:
    assert torch.equal(ours.tokens, expected.tokens)
    torch.testing.assert_close(ours.log_sums, expected.log_sums, atol=1e-4, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(ours.log_probs, expected.log_probs, atol=1e-4, rtol=1e-5, equal_nan=True)
    if expected.latents is not None:
        torch.testing.assert_close(ours.latents, expected.latents, atol=2e-2, rtol=2e-2)


def follows(ours: DraftOutputs, given: DraftBatch) -> None:
    """As :func:`same`, step by step from the kernels' own latents, which may round either way in half precision."""
    hidden, state = given.from_hidden(), None
    before = given.anchors
    assert ours.latents is not None and hidden is not None
    for step in range(ours.tokens.shape[1]):
        latent, state = reference_latent(given.head, before, hidden[:, step], state)
        torch.testing.assert_close(ours.latents[:, step].float(), latent, atol=2e-2, rtol=2e-2)
        scaled, keys = reference_scan(given, step, ours.latents[:, step].float())
        before, log_probs, log_sums = reference_finish(scaled, keys)
        assert torch.equal(ours.tokens[:, step], before)
        torch.testing.assert_close(ours.log_probs[:, step], log_probs, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours.log_sums[:, step], log_sums, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn"])
def test_blocks_are_the_references(kind: Kind, dtype: torch.dtype) -> None:
    random = np.random.default_rng(len(kind) + dtype.itemsize)
    for turn, cut in enumerate(CUTS):
        rows, gamma = int(random.integers(1, 40)), int(random.integers(1, 5))
        vocab, rank = int(random.integers(60, 400)), int(random.integers(1, 70))
        given = block(turn, kind, dtype, rows, gamma, vocab, rank)
        ours = draft_block(given, config=cut)
        if kind == "vanilla" or dtype == torch.float32:
            same(ours, reference_draft_block(given))
        else:
            follows(ours, given)


@pytest.mark.parametrize("logits", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("w1", "w2"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_weights_of_two_dtypes(w1: torch.dtype, w2: torch.dtype, logits: torch.dtype) -> None:
    """DeepSeek-V4's head has ``W2`` in another dtype than its embedding, wider or narrower."""
    given = block(13, "vanilla", torch.float32, 19, 3, 150, 20)
    head = given.head._replace(w1=given.head.w1.to(w1), w2=given.head.w2.to(w2))
    given = given._replace(head=head, base_logits=given.base_logits.to(logits))
    for cut in CUTS:
        kept = torch.empty(given.base_logits.shape)
        same(draft_block(given, kept=kept, config=cut), reference_draft_block(given, kept=torch.empty_like(kept)))
        same(draft_block(given, config=cut), reference_draft_block(given))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_longest_block_and_a_large_vocabulary(rows: int) -> None:
    same(draft_block(given := block(3, "vanilla", torch.float32, rows, 16, 130, 20)), reference_draft_block(given))
    same(draft_block(given := block(4, "vanilla", torch.bfloat16, rows, 1, 33_001, 16)), reference_draft_block(given))


def test_the_configurations_of_every_target() -> None:
    for name, target in launch_configs.TARGETS.items():
        with launch_configs.using(name):
            for cut in (target.draft[0], target.draft[-1]):
                given = block(
                    5, "vanilla", torch.bfloat16, cut.block_rows + 1 if cut is target.draft[-1] else 3, 1, 301, 40
                )
                same(draft_block(given), reference_draft_block(given))


def test_greedy_rows_need_no_noise_and_ties_go_to_the_lowest_token() -> None:
    given = integers(block(6, "vanilla", torch.float32, 12, 3, 260, 8))
    given = given._replace(temperatures=torch.zeros(12))
    for cut in CUTS:
        ours = draft_block(given, sample=False, config=cut)
        same(ours, reference_draft_block(given, sample=False))
        assert torch.equal(ours.tokens, draft_block(given, config=cut).tokens)
    value = given.base_logits[:, 0] + given.head.w1[given.anchors] @ given.head.w2.T
    ties = (value == value.amax(1, keepdim=True)).sum(1)
    assert (ties > 1).any()
    assert torch.equal(ours.tokens[:, 0], (value == value.amax(1, keepdim=True)).int().argmax(1))


def test_rows_of_nan_infinities_and_extremes() -> None:
    given = block(7, "vanilla", torch.float32, 9, 2, 200, 16)
    logits = given.base_logits
    logits[0, 0, 7] = torch.nan
    logits[1, 0, 150] = torch.nan  # A row that is sampled.
    logits[2, 0] = torch.nan
    logits[3, 0, :] = -torch.inf
    logits[3, 0, 42] = 0.0
    logits[4, 0, 66] = torch.inf
    logits[5, 0] = 1e30 * torch.arange(200)
    logits[6, 0] = -1e30
    logits[7, 0, 1:] = -torch.inf
    ours, expected = draft_block(given, config=CUTS[0]), reference_draft_block(given)
    same(ours, expected)
    assert ours.tokens[:, 0].tolist()[:5] == [7, 150, 0, 42, 66]
    assert ours.log_sums[[0, 1, 2, 4], 0].isnan().all() and ours.log_sums[[3, 5, 7], 0].isfinite().all()
    assert ours.tokens[7, 0] == 0
    all_impossible = given._replace(base_logits=torch.full_like(logits, -torch.inf))
    assert draft_block(all_impossible, config=CUTS[0]).tokens[0, 0] == 0


def test_a_row_is_drawn_the_same_in_any_batch() -> None:
    given = block(8, "rnn", torch.float32, 20, 3, 150, 16)
    whole = draft_block(given)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))[:7]
    part = draft_block(given.at(order), config=CUTS[0])
    assert torch.equal(part.tokens, whole.tokens[order])
    assert not torch.equal(draft_block(given._replace(positions=given.positions + 1)).tokens, whole.tokens)


@pytest.mark.parametrize("kind", ["vanilla", "rnn"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kept_logits_are_the_corrected_ones_and_what_was_drawn_from(kind: Kind, dtype: torch.dtype) -> None:
    """Near 20 bfloat16 rounds by up to 0.06; tokens and probabilities must be those of the rounded logits."""
    given = block(10, kind, dtype, 12, 3, 150, 16)
    given = given._replace(base_logits=(given.base_logits.float() + 18.0).to(dtype))
    for cut in CUTS:
        kept = torch.empty_like(given.base_logits)
        ours = draft_block(given, kept=kept, config=cut)
        latents = ours.latents
        if latents is None:
            latents = given.head.w1[torch.cat([given.anchors[:, None], ours.tokens[:, :-1]], 1)]
        expected = given.base_logits.float() + latents.float() @ given.head.w2.float().T
        torch.testing.assert_close(kept.float(), expected, atol=0.13 if dtype != torch.float32 else 1e-5, rtol=0)
        temperatures = torch.where(given.temperatures > 0, given.temperatures, 1.0)[:, None, None]
        log_probs = torch.log_softmax(kept.float() / temperatures, 2)
        own = log_probs.gather(2, ours.tokens[:, :, None]).squeeze(2)
        torch.testing.assert_close(ours.log_probs, own, atol=1e-4, rtol=1e-5)
        greedy = given.temperatures == 0
        # Rounding makes ties, which go to the lowest token.
        assert torch.equal(ours.tokens[greedy], kept[greedy].float().argmax(2))
        # A 2-byte logit may round the other way if sums are added in another order.
        if kind == "vanilla" and dtype == torch.float32:
            same(ours, reference_draft_block(given, kept=torch.empty_like(kept)))


def test_tokens_are_distributed_as_the_softmax() -> None:
    """Chi-square of 20,000 draws, at two temperatures at once, against the exact distribution."""
    draws = 1000
    given = block(11, "vanilla", torch.float32, 1, 1, 24, 8).at(torch.zeros(draws, dtype=torch.int64))
    given = given._replace(temperatures=torch.tensor([0.5, 1.7]).repeat(draws // 2), requests=torch.arange(draws))
    value = given.base_logits[0, 0] + given.head.w1[given.anchors[0]] @ given.head.w2.T
    counts = torch.zeros(2, 24)
    for turn in range(20):
        batch = given._replace(positions=torch.full((draws,), turn))
        drafted = draft_block(batch, config=ScanConfig(64, 32, 4, 1, 1))
        for index in range(2):
            counts[index] += torch.bincount(drafted.tokens[index::2, 0], minlength=24)
    for index, temperature in enumerate((0.5, 1.7)):
        mean = torch.softmax(value.double() / temperature, 0) * counts[index].sum()
        common = mean >= 5
        observed = torch.cat([counts[index][common], counts[index][~common].sum()[None] + 1e-9])
        expected = torch.cat([mean[common], mean[~common].sum()[None] + 1e-9])
        assert stats.chisquare(observed.double(), expected).pvalue > 1e-4


def test_keeping_logits_pays_for_few_rows_only() -> None:
    assert worth_keeping(16, 7, 256) and not worth_keeping(64, 7, 256)
