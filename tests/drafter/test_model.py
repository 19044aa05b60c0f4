"""The drafter's passes against each other, its checkpoint against DeepSpec's layout, speculation against decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from sglang_dspark.drafter import evaluate  # noqa: E402
from sglang_dspark.drafter.config import DraftConfig  # noqa: E402
from sglang_dspark.drafter.model import Drafter, target_features  # noqa: E402
from sglang_dspark.drafter.train_drafter import generate, packed_blocks  # noqa: E402
from sglang_dspark.errors import InputError  # noqa: E402

GAMMA = 5
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "block_size": GAMMA,
    "mask_token_id": 1,
    "target_layer_ids": [0, 2],
    "num_target_layers": 4,
    "num_anchors": 8,
    "markov_rank": 8,
}


@pytest.fixture(scope="module")
def pair() -> tuple[Qwen3ForCausalLM, Drafter]:
    """Random models, sharper than initialisation makes them, so that acceptance is neither 0 nor 1."""
    torch.manual_seed(0)
    shape = {key: SMALL[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    heads = {key: SMALL[key] for key in ("num_attention_heads", "num_key_value_heads")}
    target = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, num_hidden_layers=4, tie_word_embeddings=True)).eval()
    drafter = Drafter(DraftConfig(**SMALL))
    drafter.initialize(target.model.embed_tokens.weight, target.lm_head.weight)
    with torch.no_grad():
        for model in (target, drafter):
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
    return target, drafter.eval()


def test_packed_blocks_equal_a_pass_for_each(pair: tuple[Qwen3ForCausalLM, Drafter]) -> None:
    target, drafter = pair
    tokens = torch.randint(40, (2, 30), generator=torch.Generator().manual_seed(1))
    anchors = torch.tensor([[1, 28, 11, 11], [27, 5, 2, 20]])
    with torch.no_grad():
        seen = target(input_ids=tokens, output_hidden_states=True)
        features = target_features(seen.hidden_states, drafter.config.target_layer_ids)
        packed = packed_blocks(drafter, tokens, anchors, features, seen.logits)
        for row in range(2):
            for n, anchor in enumerate(anchors[row].tolist()):
                block = row * 4 + n
                known = min(GAMMA, 29 - anchor)
                assert packed.known[block].tolist() == [k < known for k in range(GAMMA)]
                text = tokens[row : row + 1]
                places = torch.arange(anchor, anchor + GAMMA).unsqueeze(0)
                hidden = drafter(drafter.block(text[:, anchor]), places, features[row : row + 1, :anchor])[:, :known]
                before = text[:, anchor : anchor + known]
                assert packed.labels[block, :known].tolist() == text[0, anchor + 1 : anchor + 1 + known].tolist()
                for found, alone in (
                    (packed.draft_logits, drafter.logits(hidden, before)),
                    (packed.confidence_logits, drafter.confidence(hidden, before)),
                    (packed.target_logits, seen.logits[row : row + 1, anchor : anchor + known]),
                ):
                    torch.testing.assert_close(found[block, :known], alone[0], atol=1e-4, rtol=1e-4)


def test_greedy_speculation_writes_what_the_target_writes(pair: tuple[Qwen3ForCausalLM, Drafter]) -> None:
    target, drafter = pair
    prompts = [[5, 9, 3], [7, 7, 30, 2, 11], [21]]
    rounds = evaluate.speculate(target, drafter, prompts, 40, 0.0, seed=0)
    generator = torch.Generator()
    for prompt, text in zip(prompts, rounds.texts, strict=True):
        assert generate(target, torch.tensor([prompt]), len(text), 0.0, generator)[0].tolist() == text
    # Prompts, the prefill's tokens, then accepted drafts and one more a round.
    assert sum(map(len, rounds.texts)) == 9 + 3 + int(rounds.accepted.sum()) + len(rounds.accepted)


def test_rejection_sampling_keeps_the_targets_distribution() -> None:
    rng = np.random.default_rng(2)
    drawn_from, target = (torch.tensor(rng.dirichlet(np.full(6, 0.7), size)) for size in (2, 3))
    generator = torch.Generator().manual_seed(3)
    pairs = np.zeros((6, 6))
    n = 20_000
    for _ in range(n):
        drafts = torch.multinomial(drawn_from, 1, generator=generator).squeeze(-1)
        count, own = evaluate._verify(drafts, drawn_from, target, generator)
        emitted = [*drafts[:count].tolist(), own]
        if len(emitted) > 1:
            pairs[emitted[0], emitted[1]] += 1
        else:
            # The next round would go on with the target's distribution of the second token.
            pairs[emitted[0]] += target[1].numpy()
    assert pairs / n == pytest.approx(np.outer(target[0], target[1]), abs=4.0 * np.sqrt(0.25 / n))


def test_roc_auc_equals_counting_pairs() -> None:
    rng = np.random.default_rng(4)
    scores = rng.integers(6, size=60).astype(np.float32)
    positive = rng.random(60) < 0.4
    wins = [float(a > b) + 0.5 * float(a == b) for a in scores[positive] for b in scores[~positive]]
    assert evaluate.roc_auc(scores, positive) == pytest.approx(np.mean(wins))


def test_checkpoint_round_trip(pair: tuple[Qwen3ForCausalLM, Drafter], tmp_path: Path) -> None:
    _, drafter = pair
    drafter.save(tmp_path)
    loaded = Drafter.from_pretrained(tmp_path)
    assert loaded.config == drafter.config
    for name, weight in drafter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float()), name


def test_published_checkpoint_has_these_weights() -> None:
    """Names and shapes that DeepSpec's code gives deepseek-ai/dspark_qwen3_8b_block7 (its config, on Qwen3-8B)."""
    with torch.device("meta"):
        drafter = Drafter(
            DraftConfig.model_validate(
                SMALL
                | {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 5}
                | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "block_size": 7}
                | {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17, 25, 33], "num_target_layers": 36}
                | {"markov_rank": 256}
            )
        )
    expected: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (151936, 4096),
        "lm_head.weight": (151936, 4096),
        "fc.weight": (4096, 5 * 4096),
        "hidden_norm.weight": (4096,),
        "norm.weight": (4096,),
        "markov_head.markov_w1.weight": (151936, 256),
        "markov_head.markov_w2.weight": (151936, 256),
        "confidence_head.proj.weight": (1, 4096 + 256),
        "confidence_head.proj.bias": (1,),
    }
    for i in range(5):
        layer = {
            "input_layernorm": (4096,),
            "post_attention_layernorm": (4096,),
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "mlp.gate_proj": (12288, 4096),
            "mlp.up_proj": (12288, 4096),
            "mlp.down_proj": (4096, 12288),
        }
        expected |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    assert {name: tuple(weight.shape) for name, weight in drafter.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"markov_head_type": "rnn"}, "markov_head_type: 'rnn' is not implemented"),
        ({"target_layer_ids": [0, 3]}, "target_layer_ids: 3 is the last"),
        ({"mask_token_id": 40}, "mask_token_id: 40 is outside"),
        ({"architectures": ["LlamaForCausalLM"]}, "architectures: "),
        ({"markov_rank": None}, "markov_rank: None is not valid"),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type: 'yarn'"),
    ],
)
def test_other_drafts_are_refused(
    pair: tuple[Qwen3ForCausalLM, Drafter], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    pair[1].save(tmp_path)
    path = tmp_path / "config.json"
    content = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None or k != "rope_theta"}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        Drafter.from_pretrained(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(pair: tuple[Qwen3ForCausalLM, Drafter], tmp_path: Path) -> None:
    pair[1].save(tmp_path)
    DraftConfig(**SMALL | {"markov_rank": 4}).save(tmp_path)
    with pytest.raises(InputError, match="weights do not fit"):
        Drafter.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no"):
        Drafter.from_pretrained(tmp_path)


def test_saved_weights_are_bfloat16(pair: tuple[Qwen3ForCausalLM, Drafter], tmp_path: Path) -> None:
    pair[1].save(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
