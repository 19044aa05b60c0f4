"""The packaged pair: size, tokenizer, accepted length and confidence on held-out text."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoTokenizer  # noqa: E402

from dspark_simulator.sts import ece  # noqa: E402
from dspark_tuning.measuring.calibrate.confidence import auc  # noqa: E402
from sglang_dspark import demo  # noqa: E402
from sglang_dspark.demo.text import CLASSES, held_out  # noqa: E402
from sglang_dspark.drafter import pair as pairs  # noqa: E402
from sglang_dspark.drafter.offline_rounds import speculate  # noqa: E402
from sglang_dspark.drafter.pair import Pair  # noqa: E402
from sglang_dspark.drafter.rounds import OfflineRounds  # noqa: E402

GAMMA = 7


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pairs.load("demo", demo.DRAFT, "cpu")


@pytest.fixture(scope="module")
def greedy(pair: Pair) -> dict[str, OfflineRounds]:
    """Greedy rounds over held-out prompts of 96 tokens, by class."""
    rounds = {}
    for klass in CLASSES:
        prompts = [pair.tokenizer(text).input_ids for text in held_out(klass, 12, 96, seed=11)]
        rounds[klass] = speculate(pair.target, pair.drafter, prompts, 64, 0.0, seed=11)
    return rounds


def survived(rounds: OfflineRounds) -> np.ndarray:
    """[R, gamma] whether a draft and its prefix were accepted."""
    return np.arange(GAMMA) < rounds.accepted[:, None]


def test_size() -> None:
    files = [path for folder in (demo.TARGET, demo.DRAFT) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_pair_fits_together(pair: Pair) -> None:
    target, drafter, _ = pair
    assert drafter.config.gamma == GAMMA
    assert drafter.config.num_target_layers == target.config.num_hidden_layers
    assert torch.equal(drafter.embed_tokens.weight, target.embedding)
    assert torch.equal(drafter.lm_head.weight, target.head)


def test_tokenizer_loads_and_is_lossless(pair: Pair) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.TARGET)
    for text in ("def f(x):\n\treturn  x  # é→漢\r\n", "  leading and trailing  ", '{"a": [1, 2.5, null]}', "🐍"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token_id == pair[0].config.eos_token_id
    assert tokenizer.mask_token_id == pair[1].config.mask_token_id
    assert len(tokenizer) == pair[0].config.vocab_size
    message = [{"role": "user", "content": "import os\n"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "import os\n"


def test_accepted_length_and_ranking(greedy: dict[str, OfflineRounds]) -> None:
    accepted = np.concatenate([rounds.accepted for rounds in greedy.values()])
    assert accepted.mean() + 1.0 >= 2.2
    lengths = {klass: rounds.accepted.mean() + 1.0 for klass, rounds in greedy.items()}
    assert max(lengths.values()) > 1.15 * min(lengths.values())
    # Over all held-out text. Within code or prose alone the confidences rank less well (README.md of the pair).
    reached = [np.arange(GAMMA) <= rounds.accepted[:, None] for rounds in greedy.values()]
    logits = [rounds.confidence_logits[judged] for rounds, judged in zip(greedy.values(), reached, strict=True)]
    outcomes = [survived(rounds)[judged] for rounds, judged in zip(greedy.values(), reached, strict=True)]
    assert auc(np.concatenate(logits), np.concatenate(outcomes)) >= 0.75


def test_calibration_carries_over_to_other_prompts(greedy: dict[str, OfflineRounds]) -> None:
    sts = json.loads(demo.STS.read_text())
    temperatures = np.array(sts["temperatures"])
    assert temperatures.shape == (GAMMA,)
    logits = np.concatenate([rounds.confidence_logits for rounds in greedy.values()])
    accepted = np.concatenate([survived(rounds) for rounds in greedy.values()])

    def error(scale: np.ndarray) -> float:
        survival = np.cumprod(1.0 / (1.0 + np.exp(-logits / scale)), axis=1)
        return float(np.mean([ece(survival[:, place], accepted[:, place]) for place in range(GAMMA)]))

    # On the rounds of the fit the temperatures reduce the error by a third; on so few rounds the gain is within noise.
    assert np.mean(sts["ece_after"]) < 0.8 * np.mean(sts["ece_before"])
    assert max(error(temperatures), error(np.ones(GAMMA))) < 0.07
