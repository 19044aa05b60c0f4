"""Run SGLang's draft models and ours on the same block; a subprocess of test_sglang.py.

Prints a JSON object a line: a drafter's name, and the largest difference of each output. SGLang's attention backend and
KV pool, which are not the model's, are replaced by a dictionary and one call of torch's attention.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from sglang.srt.distributed import parallel_state
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.models.dflash import DFlashDraftModel
from sglang.srt.models.dspark import Qwen3DSparkModel
from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3
from sglang.srt.runtime_context import get_context, get_parallel
from sglang.srt.speculative.dflash_utils import parse_dflash_draft_config
from sglang.srt.speculative.dspark_components.dspark_config import parse_dspark_draft_config, resolve_runtime_config
from sglang.srt.speculative.eagle_utils import get_draft_input_from_target_hidden_dim
from torch import Tensor
from transformers import AutoConfig

from sglang_dspark import demo
from sglang_dspark.drafter import checkpoint
from sglang_dspark.drafter.block import BlockDrafter
from sglang_dspark.drafter.eagle3 import Eagle3Drafter
from sglang_dspark.drafter.target import Target
from tests.drafter import small

ANCHOR = 37


class Cache:
    """Keys and values of the context, and attention over them and the block's."""

    def __init__(self, causal: bool) -> None:
        self.context: dict[int, tuple[Tensor, Tensor]] = {}
        self.causal = causal

    def set_kv_buffer(self, layer: Any, where: object, keys: Tensor, values: Tensor, *scales: object) -> None:
        self.context[layer.layer_id] = keys, values

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, layer: Any, batch: object, save: bool, **rest: object
    ) -> Tensor:
        kind = "DECODER" if self.causal else "ENCODER_ONLY"
        assert layer.attn_type.name == kind, "a block's tokens see one another both ways, Eagle3's do not"
        queries = queries.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        keys, values = (t.view(-1, layer.tp_k_head_num, layer.qk_head_dim) for t in (keys, values))
        if layer.layer_id in self.context:
            before = self.context[layer.layer_id]
            keys, values = torch.cat([before[0], keys]), torch.cat([before[1], values])
        if self.causal:
            self.context[layer.layer_id] = keys, values
        count, total = len(queries), len(keys)
        places = torch.arange(total) <= torch.arange(total - count, total).unsqueeze(-1)
        groups = layer.tp_q_head_num // layer.tp_k_head_num
        seen = torch.nn.functional.scaled_dot_product_attention(
            queries.transpose(0, 1),
            keys.transpose(0, 1).repeat_interleave(groups, dim=0),
            values.transpose(0, 1).repeat_interleave(groups, dim=0),
            attn_mask=places if self.causal else None,
            scale=layer.scaling,
        )
        return seen.transpose(0, 1).flatten(1)


def start() -> None:
    """What SGLang's modules need to be made."""
    server = {"device": "cpu", "speculative_draft_window_size": None}
    get_context().override_server_args(**server).install()
    with tempfile.NamedTemporaryFile() as meeting:
        parallel_state.init_distributed_environment(1, 0, f"file://{meeting.name}-point", 0, "gloo")
    parallel_state.initialize_model_parallel()
    get_parallel().override_permanently(tp_rank=0, attn_tp_rank=0)


def upstream(folder: Path, kind: Any) -> tuple[Any, dict[str, Tensor]]:
    """SGLang's model with the checkpoint's weights in float32, and the weights."""
    model = kind(AutoConfig.from_pretrained(folder)).float()
    weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    model.load_weights(weights.items())
    return model, weights


@torch.no_grad()
def dspark(target: Target, folder: Path) -> dict[str, float]:
    """Largest differences between SGLang's outputs and ours for one block after a text."""
    ours = checkpoint.load(folder)
    assert isinstance(ours, BlockDrafter)
    theirs, weights = upstream(folder, Qwen3DSparkModel)
    head = SimpleNamespace(weight=weights["lm_head.weight"], quant_method=None, org_vocab_size=ours.config.vocab_size)
    theirs.attach_shared_modules(
        embed_tokens=torch.nn.Embedding.from_pretrained(weights["embed_tokens.weight"]), lm_head=head
    )
    features, anchor = context(target, ours)
    places = torch.arange(ANCHOR, ANCHOR + ours.config.block_size)
    hidden = ours(ours.block(anchor), places.unsqueeze(0), features)
    drafts = ours.draft(hidden, anchor).tokens
    previous = torch.cat([anchor.unsqueeze(1), drafts[:, :-1]], dim=1)
    their_hidden = block(theirs, ours, features, anchor)
    base, read = theirs.compute_base_logits(their_hidden)
    state = theirs.markov_head.init_state(their_hidden[:1])
    logits = []
    for place in range(ours.config.gamma):
        hidden_at = their_hidden[place : place + 1]
        bias, state = theirs.markov_head.step_bias(previous[:, place], hidden_states=hidden_at, state=state)
        logits.append(base[place : place + 1] + bias)
    _, raw = theirs.compute_confidence(anchor_tokens=anchor, draft_tokens=drafts, confidence_features=read)
    confidence = ours.confidence(hidden, previous)
    assert confidence is not None
    runtime = resolve_runtime_config(
        draft_hf_config=AutoConfig.from_pretrained(folder),
        speculative_num_draft_tokens=None,
        target_vocab_size=ours.config.vocab_size,
    )
    parsed = parse_dspark_draft_config(draft_hf_config=AutoConfig.from_pretrained(folder))
    assert (runtime.gamma, runtime.mask_token_id) == (ours.config.gamma, ours.config.mask_token_id)
    assert parsed.target_layer_ids == list(ours.config.target_layer_ids)
    assert parsed.markov_head_type == ours.config.markov_head_type
    return worst(
        hidden=(their_hidden, hidden[0]),
        logits=(torch.cat(logits), ours.logits(hidden, previous)[0]),
        confidence=(raw[0], confidence[0]),
    )


@torch.no_grad()
def dflash(target: Target, folder: Path) -> dict[str, float]:
    """The same for DFlash, whose worker drafts from all of a block but its first place."""
    ours = checkpoint.load(folder)
    assert isinstance(ours, BlockDrafter)
    theirs, weights = upstream(folder, DFlashDraftModel)
    features, anchor = context(target, ours)
    places = torch.arange(ANCHOR, ANCHOR + ours.config.block_size)
    hidden = ours(ours.block(anchor), places.unsqueeze(0), features)
    their_hidden = block(
        theirs, ours, features, anchor, torch.nn.Embedding.from_pretrained(weights["embed_tokens.weight"])
    )
    parsed = parse_dflash_draft_config(draft_hf_config=AutoConfig.from_pretrained(folder))
    assert parsed.resolve_block_size() == ours.config.gamma + 1
    assert (parsed.mask_token_id, parsed.num_target_layers) == (ours.config.mask_token_id, len(target.layers))
    assert parsed.target_layer_ids == list(ours.config.target_layer_ids)
    tokens = torch.full((1, ANCHOR + 1), 5)
    tokens[0, -1] = anchor
    drafts = ours.propose(tokens, torch.tensor([ANCHOR + 1]), features).tokens
    expected = (their_hidden[1:] @ weights["lm_head.weight"].T).argmax(-1)
    return worst(hidden=(their_hidden, hidden[0]), drafts=(expected.float(), drafts[0].float()))


@torch.no_grad()
def eagle3(target: Target, folder: Path) -> dict[str, float]:
    """Eagle3's greedy drafts and their logits, SGLang's model fed as its worker feeds it."""
    ours = checkpoint.load(folder)
    assert isinstance(ours, Eagle3Drafter)
    theirs, _ = upstream(folder, LlamaForCausalLMEagle3)
    tokens = text(ours.config.vocab_size)
    features = target.hidden_states(tokens, ours.config.target_layer_ids).features
    config = AutoConfig.from_pretrained(folder)
    algorithm = SimpleNamespace(is_eagle3=lambda: True)
    runner = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config, hidden_size=config.hidden_size), spec_algorithm=algorithm
    )
    assert get_draft_input_from_target_hidden_dim(runner) == features.shape[-1]  # type: ignore[arg-type]
    assert config.eagle_config["eagle_aux_hidden_state_layer_ids"] == list(ours.config.target_layer_ids)
    cache = Cache(causal=True)
    drafts, logits = [], []
    step, hidden, places = tokens[0, 1 : ANCHOR + 1], features[0, :ANCHOR], torch.arange(ANCHOR)
    with forward_context(ForwardContext(attn_backend=cache)):  # type: ignore[arg-type]
        for _ in range(ours.config.gamma):
            batch = SimpleNamespace(
                spec_info=SimpleNamespace(hidden_states=hidden),
                mm_input_embeds=None,
                forward_mode=ForwardMode.TARGET_VERIFY,
                contains_mm_inputs=lambda: False,
            )
            normed, (raw,) = theirs.model(step, places, batch)
            logits.append(normed[-1] @ theirs.lm_head.weight[: config.vocab_size].T)
            drafts.append(logits[-1].argmax())
            step, hidden, places = drafts[-1].view(1), raw[-1:], places[-1:] + 1
    proposal = ours.propose(tokens[:, : ANCHOR + 1], torch.tensor([ANCHOR + 1]), features, temperature=1.0)
    own = ours.propose(tokens[:, : ANCHOR + 1], torch.tensor([ANCHOR + 1]), features)
    first = (logits[0].softmax(-1), proposal.probabilities[0, 0])
    return worst(drafts=(torch.stack(drafts).float(), own.tokens[0].float()), first=first)


def text(vocabulary: int) -> Tensor:
    return torch.randint(2, vocabulary, (1, ANCHOR + 9), generator=torch.Generator().manual_seed(0))


def context(target: Target, ours: BlockDrafter) -> tuple[Tensor, Tensor]:
    tokens = text(ours.config.vocab_size)
    seen = target.hidden_states(tokens, ours.config.target_layer_ids)
    return seen.features[:, :ANCHOR], tokens[:, ANCHOR]


def block(theirs: Any, ours: BlockDrafter, features: Tensor, anchor: Tensor, embedding: Any = None) -> Tensor:
    """SGLang's hidden states of the block."""
    cache = Cache(causal=False)
    before = torch.arange(ANCHOR)
    if embedding is None:
        theirs.write_target_hidden_kv(target_hidden=features[0], pool=cache, positions=before, cache_loc=before)
    else:
        projected = theirs.project_target_hidden(features[0])
        for layer in theirs.layers:
            attention = layer.self_attn
            keys, values = attention.kv_proj_only(projected)
            keys = attention.apply_k_rope(before, attention.apply_k_norm(keys))
            shape = (ANCHOR, attention.num_kv_heads, attention.head_dim)
            cache.set_kv_buffer(attention.attn, before, keys.view(shape), values.view(shape))
    batch = SimpleNamespace(forward_mode=ForwardMode.TARGET_VERIFY)
    places = torch.arange(ANCHOR, ANCHOR + ours.config.block_size)
    tokens = ours.block(anchor)[0]
    given = {} if embedding is None else {"input_embeds": embedding(tokens)}
    with forward_context(ForwardContext(attn_backend=cache)):  # type: ignore[arg-type]
        hidden: Tensor = theirs(tokens, places, batch, **given).hidden_states
    return hidden


def worst(**pairs: tuple[Tensor, Tensor]) -> dict[str, float]:
    return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


def main() -> None:
    start()
    print(json.dumps(["demo", dspark(Target.load("demo"), demo.DRAFT)]))
    target = small.qwen3()
    compare = {"dspark-gated": dspark, "dspark-rnn": dspark, "dflash": dflash, "eagle3": eagle3}
    for name, differences in compare.items():
        with tempfile.TemporaryDirectory() as folder:
            small.drafter(name, target).save(Path(folder))
            print(json.dumps([name, differences(target, Path(folder))]))
    for name in ("dspark-gemma4",):
        with tempfile.TemporaryDirectory() as folder:
            small.CONFIGS[name].save(Path(folder))
            parsed = parse_dspark_draft_config(draft_hf_config=AutoConfig.from_pretrained(folder))
            expected = small.CONFIGS[name]
            assert parsed.gamma == expected.gamma and parsed.target_layer_ids == list(expected.target_layer_ids)
    print(json.dumps(["done", {}]))


if __name__ == "__main__":
    main()
