"""Losses over a weighted sample of the vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sglang_dspark.drafter.base import Batch  # noqa: E402
from sglang_dspark.drafter.block import DSparkShape  # noqa: E402
from sglang_dspark.drafter.eagle3 import Eagle3Shape  # noqa: E402
from sglang_dspark.drafter.families import make  # noqa: E402
from sglang_dspark.drafter.losses import Weights, losses  # noqa: E402
from sglang_dspark.drafter.shape import derive  # noqa: E402
from sglang_dspark.drafter.target import DEMO, Target  # noqa: E402
from sglang_dspark.drafter.training.loop import Trainer  # noqa: E402
from sglang_dspark.drafter.training.recipe import Recipe  # noqa: E402
from sglang_dspark.drafter.vocabulary import draw  # noqa: E402

WEIGHTS = Weights(0.1, 0.9, 1.0, 0.3, 0.8)
DRAFTS = (
    DSparkShape(family="dspark", target_layer_ids=(0, 3), block_size=3, layers=1, mask_token_id=1, markov_rank=4),
    DSparkShape(
        family="dspark",
        target_layer_ids=(0, 3),
        block_size=3,
        layers=1,
        mask_token_id=1,
        markov_rank=4,
        markov_head_type="rnn",
    ),
    Eagle3Shape(family="eagle3", target_layer_ids=(0, 3), ttt_length=3),
)


@pytest.mark.parametrize("draft", DRAFTS, ids=["vanilla", "rnn", "eagle3"])
def test_columns_are_those_of_the_whole_vocabulary(draft: Any) -> None:
    torch.manual_seed(3)
    target = Target.load(DEMO)
    drafter = make(derive(draft, target.config, 2))
    drafter.initialize(target.embedding, target.head)
    tokens = torch.randint(100, 1000, (2, 12))
    seen = target.hidden_states(tokens, (0, 3))
    batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), seen.features, seen.last)
    anchors = torch.tensor([[2, 7], [4, 9]])
    given = batch, anchors, torch.ones_like(anchors, dtype=torch.bool)
    whole = drafter.score(*given)

    # Named twice, a token is one column.
    columns = draw(tokens.repeat(2, 1).flatten(), drafter.config.vocab_size, 50, torch.Generator().manual_seed(0))
    assert len(columns.tokens) == len(tokens.unique()) + 50
    part = drafter.score(*given, columns)
    for found, expected in ((part.draft_logits, whole.draft_logits), (part.target_logits, whole.target_logits)):
        torch.testing.assert_close(found, expected[..., columns.tokens] + columns.weight)
    assert torch.equal(columns.tokens[part.labels[part.known]], whole.labels[whole.known])

    every = draw(tokens.unique(), drafter.config.vocab_size, 10**6, torch.Generator().manual_seed(0))
    all_losses = losses(whole, WEIGHTS)
    for found, expected in zip(losses(drafter.score(*given, every), WEIGHTS), all_losses, strict=True):
        torch.testing.assert_close(found, expected)

    def sampled(others: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        columns = draw(tokens.unique(), drafter.config.vocab_size, others, generator)
        return losses(drafter.score(*given, columns), WEIGHTS)

    # The terms that are sums over the vocabulary, on average over samples; the texts' tokens alone are far off.
    samples = [sampled(400, seed) for seed in range(30)]
    for name in ("cross_entropy", "total_variation"):
        mean = sum(float(getattr(terms, name).detach()) for terms in samples) / len(samples)
        assert mean == pytest.approx(float(getattr(all_losses, name).detach()), rel=0.03)
    assert float(sampled(0, 0).cross_entropy.detach()) < 0.9 * float(all_losses.cross_entropy.detach())


def test_trained_on_a_sample_it_learns_as_much(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    turns = ("def f(self):", "\n        return self.value\n" * 3)
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=True)]
    file.write_text(json.dumps({"conversations": messages}) + "\n")
    content = {
        "target": "demo",
        "draft": {"family": "dspark", "intermediate_size": 32, "target_layer_ids": [0, 3], "block_size": 3}
        | {"layers": 1, "mask_token_id": 1, "markov_rank": 4},
        "losses": {"cross_entropy": 0.1, "total_variation": 0.9, "confidence": 1.0, "place_ratio": 0.8},
        "data": {"train": [str(file)], "held_out": [str(file)], "max_length": 48},
        "steps": 60,
        "batch": 1,
        "anchors": 12,
        "learning_rate": 4e-3,
        "precision": "float32",
        "evaluate_every": 60,
    }
    trainers = {
        sampled: Trainer(Recipe.model_validate(content | {"sampled_tokens": sampled}), tmp_path / str(sampled), "cpu")
        for sampled in (None, 128)
    }
    counts = Counter(trainers[128].train.tokens().tolist())
    assert trainers[128].common is not None
    common = trainers[128].common.tolist()
    assert len(set(common)) == 128 and [counts[token] for token in common[:5]] == [n for _, n in counts.most_common(5)]
    # A pass has the logits of the common tokens, of its texts' and of as many others.
    absent = torch.tensor([token for token in range(100, 1000) if token not in counts][:2])
    part = trainers[128]._score(trainers[128].train, [0], torch.Generator().manual_seed(0), absent)
    assert part.draft_logits.shape[-1] == len(counts) + 2 + 2
    reached = {sampled: trainer.run() for sampled, trainer in trainers.items()}
    assert reached[None].best > 1.8
    assert reached[128].best == pytest.approx(reached[None].best, abs=0.3)
    assert reached[128].log[-1]["cross_entropy"] != reached[None].log[-1]["cross_entropy"]
