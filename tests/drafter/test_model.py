"""Every drafter's passes against each other, against transformers' layers, and speculation against decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import Gemma4TextConfig, Qwen3Config  # noqa: E402
from transformers.models.gemma4 import modeling_gemma4  # noqa: E402
from transformers.models.qwen3 import modeling_qwen3  # noqa: E402

from sglang_dspark.drafter import checkpoint, families, layers, masks, offline_rounds  # noqa: E402
from sglang_dspark.drafter.anchors import sample_anchors  # noqa: E402
from sglang_dspark.drafter.base import Batch, Drafter  # noqa: E402
from sglang_dspark.drafter.block import BlockConfig, BlockDrafter  # noqa: E402
from sglang_dspark.drafter.eagle3 import Eagle3Drafter  # noqa: E402
from sglang_dspark.drafter.target import Target  # noqa: E402
from sglang_dspark.errors import InputError  # noqa: E402
from tests.drafter import small  # noqa: E402
from tests.drafter.small import BACKBONE, CONFIGS, GAMMA  # noqa: E402

ANCHORS = [[1, 28, 11, 11], [27, 5, 2, 20]]


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    return {"qwen3": small.qwen3(), "gemma4": small.gemma4()}


@pytest.fixture(params=CONFIGS)
def pair(request: pytest.FixtureRequest, targets: dict[str, Target]) -> tuple[Target, Drafter[Any]]:
    target = targets["gemma4" if "gemma4" in request.param else "qwen3"]
    return target, small.drafter(request.param, target)


def alone(
    drafter: Drafter[Any], text: Tensor, features: Tensor, anchor: int, known: int
) -> tuple[Tensor, Tensor | None]:
    """One block's logits, given the text's own tokens before each draft: no packing, no mask, no unrolling."""
    before = text[:, anchor : anchor + known]
    if isinstance(drafter, BlockDrafter):
        block = drafter.block(text[:, anchor])
        places = torch.arange(anchor, anchor + block.shape[1]).unsqueeze(0)
        hidden = drafter.drafting(drafter(block, places, features[:, :anchor]))[:, :known]
        return drafter.logits(hidden, before)[0], drafter.confidence(hidden, before)
    # Eagle3 token by token, each seeing all before it.
    past, outputs = None, []
    for place in range(anchor + known - 1):
        fused = drafter.fc(features[:, place : place + 1]) if place < anchor else outputs[-1]
        out, past = drafter(text[:, place + 1 : place + 2], fused, torch.tensor([[place]]), past)
        outputs.append(out)
    return drafter.logits(torch.cat(outputs[anchor - 1 :], dim=1))[0], None


@torch.no_grad()
def test_packed_blocks_equal_a_pass_for_each(pair: tuple[Target, Drafter[Any]]) -> None:
    target, drafter = pair
    tokens = torch.randint(40, (2, 30), generator=torch.Generator().manual_seed(1))
    answer = torch.ones_like(tokens, dtype=torch.bool)
    answer[1, 24] = False
    seen = target.hidden_states(tokens, drafter.config.target_layer_ids)
    kept = torch.tensor([[True] * 4, [True, True, False, True]])
    forced = drafter.score(Batch(tokens, answer, seen.features, seen.last), torch.tensor(ANCHORS), kept)
    logits = target.logits(seen.last)
    ends = [[5, 1, 5, 5], [2, 5, 0, 3]]
    for row in range(2):
        for n, anchor in enumerate(ANCHORS[row]):
            block, known = row * 4 + n, ends[row][n]
            assert forced.known[block].tolist() == [k < known for k in range(GAMMA)]
            if not known:
                continue
            text = tokens[row : row + 1]
            assert forced.labels[block, :known].tolist() == text[0, anchor + 1 : anchor + 1 + known].tolist()
            expected, confidence = alone(drafter, text, seen.features[row : row + 1], anchor, known)
            torch.testing.assert_close(forced.draft_logits[block, :known], expected, atol=1e-4, rtol=1e-4)
            expected = logits[row, anchor : anchor + known]
            torch.testing.assert_close(forced.target_logits[block, :known], expected, atol=1e-4, rtol=1e-4)
            assert (forced.confidence_logits is None) == (confidence is None)
            if confidence is not None:
                assert forced.confidence_logits is not None
                torch.testing.assert_close(forced.confidence_logits[block, :known], confidence[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_features_are_those_of_transformers(targets: dict[str, Target]) -> None:
    tokens = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(2))
    for target in targets.values():
        seen = target.hidden_states(tokens, (0, 2))
        whole = target.model(input_ids=tokens, output_hidden_states=True)
        assert torch.equal(seen.features, torch.cat([whole.hidden_states[1], whole.hidden_states[3]], dim=-1))
        torch.testing.assert_close(target.logits(seen.last), whole.logits)


@torch.no_grad()
def test_drafts_are_those_of_the_forced_pass(pair: tuple[Target, Drafter[Any]]) -> None:
    """What is drafted, given back as the text, has the logits that it was drafted from."""
    target, drafter = pair
    tokens = torch.randint(40, (2, 14), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([14, 9])
    seen = target.hidden_states(tokens, drafter.config.target_layer_ids)
    generator = torch.Generator().manual_seed(4)
    proposal = drafter.propose(tokens, lengths, seen.features, 1.0, generator)
    for row in range(2):
        text = torch.cat([tokens[row, : lengths[row]], proposal.tokens[row]]).unsqueeze(0)
        expected, confidence = alone(drafter, text, seen.features[row : row + 1], int(lengths[row]) - 1, GAMMA)
        torch.testing.assert_close(proposal.probabilities[row], expected.softmax(-1), atol=1e-5, rtol=1e-4)
        if confidence is not None:
            assert proposal.confidence_logits is not None
            torch.testing.assert_close(proposal.confidence_logits[row], confidence[0], atol=1e-4, rtol=1e-4)
    greedy = drafter.propose(tokens, lengths, seen.features)
    assert torch.equal(greedy.probabilities.argmax(-1), greedy.tokens)


def test_greedy_speculation_writes_what_the_target_writes(pair: tuple[Target, Drafter[Any]]) -> None:
    target, drafter = pair
    prompts = [[5, 9, 3], [7, 7, 30, 2, 11], [21]]
    rounds = offline_rounds.speculate(target, drafter, prompts, 30, 0.0, seed=0)
    for prompt, text in zip(prompts, rounds.texts, strict=True):
        tokens = list(prompt)
        while len(tokens) < len(text):
            last = target.hidden_states(torch.tensor([tokens]), ()).last[0, -1]
            tokens.append(int(target.logits(last).argmax()))
        assert tokens == text
    # Prompts, the prefill's tokens, then accepted drafts and one more a round.
    assert sum(map(len, rounds.texts)) == 9 + 3 + int(rounds.accepted.sum()) + len(rounds.accepted)
    for request, (prompt, text) in enumerate(zip(prompts, rounds.texts, strict=True)):
        own = rounds.request == request
        assert rounds.begin[own].tolist() == np.cumsum([1, *(rounds.accepted[own][:-1] + 1)]).tolist()
        assert len(text) - len(prompt) == rounds.begin[own][-1] + rounds.accepted[own][-1] + 1
    # A token that ends texts: the same, cut after its first; the round that met it does not count.
    stop = rounds.texts[1][15]
    cut = offline_rounds.speculate(target, drafter, prompts, 30, 0.0, seed=0, stop=frozenset({stop}))
    for prompt, whole, text in zip(prompts, rounds.texts, cut.texts, strict=True):
        end = whole.index(stop, len(prompt)) + 1 if stop in whole[len(prompt) :] else len(whole)
        assert text == whole[:end]
    assert len(cut.accepted) < len(rounds.accepted)


def test_rejection_sampling_keeps_the_targets_distribution() -> None:
    rng = np.random.default_rng(2)
    drawn_from, target = (torch.tensor(rng.dirichlet(np.full(6, 0.7), size)) for size in (2, 3))
    generator = torch.Generator().manual_seed(3)
    pairs = np.zeros((6, 6))
    n = 20_000
    for _ in range(n):
        drafts = torch.multinomial(drawn_from, 1, generator=generator).squeeze(-1)
        count, own = offline_rounds._verify(drafts, drawn_from, target, generator)
        emitted = [*drafts[:count].tolist(), own]
        if len(emitted) > 1:
            pairs[emitted[0], emitted[1]] += 1
        else:
            # The next round would go on with the target's distribution of the second token.
            pairs[emitted[0]] += target[1].numpy()
    assert pairs / n == pytest.approx(np.outer(target[0], target[1]), abs=4.0 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("rule", ["blocks", "unrolled"])
@torch.no_grad()
def test_block_sparse_mask_is_the_dense_one(rule: str) -> None:
    """FlexAttention, uncompiled, with the mask that a GPU gets, beside the dense one's attention."""
    from torch.nn.attention.flex_attention import create_block_mask

    attention = layers.Attention(CONFIGS["dspark"], 32)
    length = 150
    if rule == "blocks":
        anchors = torch.tensor([[1, 149, 70], [128, 127, 5]])
        sees, queries, keys = masks.packed_blocks(anchors, length, GAMMA), 3 * GAMMA, length + 3 * GAMMA
    else:
        sees, queries, keys = masks.unrolled(length), length, 3 * length
    generator = torch.Generator().manual_seed(5)
    q = torch.randn((2, 4, queries, 16), generator=generator)
    k, v = torch.randn((2, 2, 2, keys, 16), generator=generator)
    sparse = create_block_mask(sees, 2, None, queries, keys, device="cpu")
    dense = masks.dense(sees, 2, queries, keys)
    found = attention.attend(q, k, v, sparse)
    torch.testing.assert_close(found, attention.attend(q, k, v, dense), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_layers_are_those_of_transformers() -> None:
    """Without context a block drafter's layer is the target's kind of layer, every token seeing every other."""
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn((2, GAMMA, 32), generator=generator)
    positions = torch.arange(7, 7 + GAMMA).expand(2, -1)
    shape = {k: BACKBONE[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    qwen = Qwen3Config(**shape, num_key_value_heads=2, head_dim=16, num_hidden_layers=1, attn_implementation="sdpa")
    theirs: dict[str, Any] = {
        "dspark": (modeling_qwen3.Qwen3DecoderLayer(qwen, 0), modeling_qwen3.Qwen3RotaryEmbedding(qwen), ())
    }
    gemma = small.gemma4().config
    assert isinstance(gemma, Gemma4TextConfig)
    gemma._attn_implementation = "sdpa"
    rotary = modeling_gemma4.Gemma4TextRotaryEmbedding(gemma)
    theirs["dspark-gemma4"] = (modeling_gemma4.Gemma4TextDecoderLayer(gemma, 1), rotary, ("full_attention",))
    for name, (layer, turns, kind) in theirs.items():
        ours = layers.Layer(CONFIGS[name])
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        ours.load_state_dict(layer.state_dict())
        everything = torch.ones((2, 1, GAMMA, GAMMA), dtype=torch.bool)
        embedded = turns(hidden, positions, *kind)
        extra = {"shared_kv_states": {}} if kind else {}
        expected = layer(hidden, position_embeddings=embedded, attention_mask=everything, **extra)
        expected = expected[0] if isinstance(expected, tuple) else expected
        own = layers.rope(CONFIGS[name], positions, torch.float32)
        normed = ours.input_layernorm(hidden)
        keys, values = ours.self_attn.keys_values(normed, own)
        found = ours.after(hidden, ours.self_attn.attend(ours.self_attn.queries(normed, own), keys, values, None))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_anchors_are_answers_tokens_that_another_follows() -> None:
    answer = torch.zeros((3, 12), dtype=torch.bool)
    answer[0, :4] = answer[0, 8:10] = answer[1, 11] = answer[2, 2:] = True
    generator = torch.Generator().manual_seed(7)
    anchors, kept = sample_anchors(answer, 20, generator)
    assert [sorted(anchors[row][kept[row]].tolist()) for row in range(3)] == [[1, 2, 8], [], list(range(2, 11))]
    drawn = torch.zeros(12)
    for _ in range(600):
        anchors, kept = sample_anchors(answer, 3, generator)
        assert kept[2].all() and anchors[2].unique().numel() == 3
        drawn += torch.bincount(anchors[2], minlength=12)
    # 1800 draws without replacement over nine places.
    assert (drawn[2:11] - 200.0).abs().max() < 5.0 * 14.0


def test_checkpoint_round_trip(pair: tuple[Target, Drafter[Any]], tmp_path: Path) -> None:
    target, drafter = pair
    drafter.save(tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert type(loaded) is type(drafter)
    assert loaded.config == drafter.config
    for name, weight in drafter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float()), name
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    drafter.save(tmp_path, shared=False)
    slim = checkpoint.load(tmp_path)
    assert slim.shared_absent
    slim.adopt(target.embedding, target.head)
    assert torch.equal(slim.embed_tokens.weight, target.embedding)
    assert not slim.shared_absent


LAYER = ("input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
QKVO = tuple(f"self_attn.{name}_proj" for name in "qkvo")
QK_NORM = ("self_attn.q_norm", "self_attn.k_norm")
GEMMA_LAYER = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
# As DeepSpec's modules are named, its Gemma 4 without values of its own.
DEEPSPEC = {
    "dspark": (*LAYER, *QKVO, *QK_NORM),
    "dspark-gemma4": (*LAYER, *(name for name in QKVO if "v_proj" not in name), *QK_NORM, *GEMMA_LAYER),
    "eagle3-qwen3": (*LAYER, *QKVO, *QK_NORM, "hidden_norm"),
    "eagle3": (*LAYER, *QKVO, "hidden_norm"),
}


@pytest.mark.parametrize("name", DEEPSPEC)
def test_weights_have_the_names_of_deepspec(name: str) -> None:
    weights = set(families.make(CONFIGS[name]).state_dict())
    expected = {"embed_tokens.weight", "lm_head.weight", "fc.weight", "norm.weight"}
    for i in range(CONFIGS[name].num_hidden_layers):
        expected |= {f"layers.{i}.{part}.weight" for part in DEEPSPEC[name]}
        expected |= {f"layers.{i}.layer_scalar"} if "gemma4" in name else set()
    if "dspark" in name:
        expected |= {"hidden_norm.weight", "markov_head.markov_w1.weight", "markov_head.markov_w2.weight"}
        expected |= {"confidence_head.proj.weight", "confidence_head.proj.bias"}
    assert weights == expected


def test_published_checkpoint_has_these_shapes() -> None:
    """Shapes that DeepSpec's code gives deepseek-ai/dspark_qwen3_8b_block7 (its config, on Qwen3-8B)."""
    published = BlockConfig.model_validate(
        CONFIGS["dspark"].model_dump()
        | {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 5}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "block_size": 7}
        | {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17, 25, 33], "num_target_layers": 36}
        | {"markov_rank": 256}
    )
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in BlockDrafter(published).state_dict().items()}
    assert len(shapes) == 9 + 5 * 11
    expected: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (151936, 4096),
        "lm_head.weight": (151936, 4096),
        "fc.weight": (4096, 5 * 4096),
        "markov_head.markov_w1.weight": (151936, 256),
        "markov_head.markov_w2.weight": (151936, 256),
        "confidence_head.proj.weight": (1, 4096 + 256),
        "layers.4.self_attn.q_proj.weight": (4096, 4096),
        "layers.4.self_attn.k_proj.weight": (1024, 4096),
        "layers.4.self_attn.o_proj.weight": (4096, 4096),
        "layers.4.self_attn.q_norm.weight": (128,),
        "layers.4.mlp.down_proj.weight": (4096, 12288),
    }
    assert {name: shapes[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dspark", {"markov_head_type": "lstm"}, "markov_head_type: 'lstm' is not valid"),
        ("dspark", {"target_layer_ids": [0, 3]}, "target_layer_ids: 3 is the last"),
        ("dspark", {"target_layer_ids": [2, 0]}, r"target_layer_ids: [2, 0] must rise"),
        ("dspark", {"mask_token_id": 40}, "mask_token_id: 40 is outside"),
        ("dspark", {"architectures": ["LlamaForCausalLM"]}, "architectures: "),
        ("dspark", {"markov_rank": -1}, "markov_rank: -1 is not valid"),
        ("dspark", {"block_size": 18}, "block_size: 18 is not valid"),
        ("dspark", {"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide"),
        ("dspark", {"rope_theta": None, "rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type: 'yarn'"),
        ("dflash", {"markov_rank": 4}, "DFlashDraftModel has neither"),
        ("dflash", {"block_size": 1}, "block_size: 1 gives 0 drafts"),
        ("eagle3", {"num_hidden_layers": 2}, "num_hidden_layers: 2 is not implemented for Eagle3"),
        ("eagle3-gemma4", {"enable_moe_block": True}, "enable_moe_block: true is not implemented"),
    ],
)
def test_other_drafts_are_refused(tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
    CONFIGS[name].save(tmp_path)
    path = tmp_path / "config.json"
    content = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None or k != "rope_theta"}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"config\.json: ") as error:
        checkpoint.read_config(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields"), [("dflash", ("mask_token_id", "target_layer_ids")), ("eagle3", ("target_layer_ids",))]
)
def test_fields_that_a_familys_files_nest_are_read(tmp_path: Path, name: str, fields: tuple[str, ...]) -> None:
    CONFIGS[name].save(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({field: value for field, value in content.items() if field not in fields}))
    assert checkpoint.read_config(tmp_path) == CONFIGS[name]


def test_weights_that_do_not_fit_are_refused(targets: dict[str, Target], tmp_path: Path) -> None:
    small.drafter("dspark", targets["qwen3"]).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for change in ({"fc.weight": weights["fc.weight"][:8]}, {"d2t": torch.zeros(4)}):
        save_file(weights | change, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match="weights do not fit"):
            checkpoint.load(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="weights do not fit"):
        checkpoint.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no"):
        checkpoint.load(tmp_path)


def test_eagle_layer_sees_embedding_then_state(targets: dict[str, Target]) -> None:
    """The layer's input is the embedding first: DeepSpec's and SGLang's order, which packing cannot tell."""
    drafter = small.drafter("eagle3", targets["qwen3"])
    assert isinstance(drafter, Eagle3Drafter)
    with torch.no_grad():
        for name in "qkv":
            getattr(drafter.layers[0].self_attn, f"{name}_proj").weight[:, :32] = 0.0
        features = torch.randn((1, 1, 64), generator=torch.Generator().manual_seed(8))
        outputs = [drafter(torch.tensor([[t]]), drafter.fc(features), torch.tensor([[0]]))[0] for t in (3, 30)]
    assert torch.equal(*outputs)
