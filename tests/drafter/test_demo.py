"""The packaged pair: its size, its tokenizer, and what it achieves on held-out text."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Tokenizer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from dspark_simulator.sts import ece  # noqa: E402
from sglang_dspark import demo  # noqa: E402
from sglang_dspark.drafter import checkpoint  # noqa: E402
from sglang_dspark.drafter.checkpoint import AnyDrafter  # noqa: E402
from sglang_dspark.drafter.evaluate import Figures, figures, roc_auc  # noqa: E402
from sglang_dspark.drafter.target import Target  # noqa: E402

GAMMA = 7


@pytest.fixture(scope="module")
def pair() -> tuple[Target, AnyDrafter]:
    return Target.load("demo"), checkpoint.load(demo.DRAFT)


@pytest.fixture(scope="module")
def greedy(pair: tuple[Target, AnyDrafter]) -> dict[str, Figures]:
    tokenizer = Tokenizer.from_file(str(demo.TARGET / "tokenizer.json"))
    return {each.klass: each for each in figures(*pair, tokenizer, 12, 64, (0.0,), seed=11)}


def test_size() -> None:
    files = [path for folder in (demo.TARGET, demo.DRAFT) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_pair_fits_together(pair: tuple[Target, AnyDrafter]) -> None:
    target, drafter = pair
    assert drafter.config.gamma == GAMMA
    assert drafter.config.num_target_layers == target.config.num_hidden_layers
    assert torch.equal(drafter.embed_tokens.weight, target.embedding)
    assert torch.equal(drafter.lm_head.weight, target.head)


def test_tokenizer_loads_and_is_lossless(pair: tuple[Target, AnyDrafter]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.TARGET)
    for text in ("def f(x):\n\treturn  x  # é→漢\r\n", "  leading and trailing  ", '{"a": [1, 2.5, null]}', "🐍"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token_id == pair[0].config.eos_token_id
    assert tokenizer.mask_token_id == pair[1].config.mask_token_id
    assert len(tokenizer) == pair[0].config.vocab_size
    message = [{"role": "user", "content": "import os\n"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "import os\n"


def test_accepted_length_and_ranking(greedy: dict[str, Figures]) -> None:
    accepted = np.concatenate([each.rounds.accepted for each in greedy.values()])
    assert accepted.mean() + 1.0 >= 2.2
    lengths = {klass: each.rounds.accepted_length for klass, each in greedy.items()}
    assert max(lengths.values()) > 1.15 * min(lengths.values())
    # Over all held-out text. Within code or prose alone the confidences rank less well (README.md of the pair).
    judged = [
        (each.rounds.confidence_logits, each.rounds.prefix_accepted, each.rounds.reached) for each in greedy.values()
    ]
    logits = np.concatenate([logits[reached] for logits, _, reached in judged])
    accepted = np.concatenate([accepted[reached] for _, accepted, reached in judged])
    assert roc_auc(logits, accepted) >= 0.75


def test_calibration_carries_over_to_other_prompts(greedy: dict[str, Figures]) -> None:
    sts = json.loads(demo.STS.read_text())
    temperatures = np.array(sts["temperatures"])
    assert temperatures.shape == (GAMMA,)
    logits = np.concatenate([each.rounds.confidence_logits for each in greedy.values()])
    accepted = np.concatenate([each.rounds.prefix_accepted for each in greedy.values()])

    def error(scale: np.ndarray) -> float:
        survival = np.cumprod(1.0 / (1.0 + np.exp(-logits / scale)), axis=1)
        return float(np.mean([ece(survival[:, place], accepted[:, place]) for place in range(GAMMA)]))

    # On the rounds of the fit the temperatures take a third off; on as few as these noise hides what they gain.
    assert np.mean(sts["ece_after"]) < 0.8 * np.mean(sts["ece_before"])
    assert max(error(temperatures), error(np.ones(GAMMA))) < 0.07
