"""Run by test_sglang.py in a process of its own: SGLang's model of the drafter beside ours, on the same block.

Prints a JSON object with the largest difference of each output. SGLang's attention backend and KV pool, which are not
the model's, are replaced by a dictionary and one call of torch's attention.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from sglang.srt.distributed import parallel_state
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.models.dspark import Qwen3DSparkModel
from sglang.srt.runtime_context import get_context
from torch import Tensor
from transformers import AutoConfig

from sglang_dspark.drafter.model import Drafter, target_features
from sglang_dspark.drafter.train_target import load

ANCHOR = 37


class Cache:
    """Keys and values of the context, and attention over them and the block."""

    def __init__(self) -> None:
        self.context: dict[int, tuple[Tensor, Tensor]] = {}

    def set_kv_buffer(self, layer: Any, where: object, keys: Tensor, values: Tensor, *scales: object) -> None:
        self.context[layer.layer_id] = keys, values

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, layer: Any, batch: object, save: bool, **rest: object
    ) -> Tensor:
        assert layer.attn_type.name == "ENCODER_ONLY", "a block's tokens see one another both ways"
        before = self.context[layer.layer_id]
        queries = queries.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        seen = torch.nn.functional.scaled_dot_product_attention(
            queries.transpose(0, 1),
            torch.cat([before[0], keys]).transpose(0, 1).repeat_interleave(len(queries[0]) // len(keys[0]), dim=0),
            torch.cat([before[1], values]).transpose(0, 1).repeat_interleave(len(queries[0]) // len(keys[0]), dim=0),
            scale=layer.scaling,
        )
        return seen.transpose(0, 1).flatten(1)


def upstream(folder: Path) -> Any:
    """SGLang's model with the checkpoint's weights in float32, and the modules that its worker attaches."""
    get_context().override_server_args(device="cpu").install()
    with tempfile.NamedTemporaryFile() as meeting:
        parallel_state.init_distributed_environment(1, 0, f"file://{meeting.name}-point", 0, "gloo")
    parallel_state.initialize_model_parallel()
    config = AutoConfig.from_pretrained(folder)
    model = Qwen3DSparkModel(config).float()
    weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    model.load_weights(weights.items())
    head = SimpleNamespace(weight=weights["lm_head.weight"], quant_method=None, org_vocab_size=config.vocab_size)
    embedding = torch.nn.Embedding.from_pretrained(weights["embed_tokens.weight"])
    model.attach_shared_modules(embed_tokens=embedding, lm_head=head)
    return model


@torch.no_grad()
def differences(target_folder: Path, draft_folder: Path) -> dict[str, float]:
    """Largest differences between SGLang's outputs and ours for one block after a text."""
    target, ours, theirs = load(target_folder), Drafter.from_pretrained(draft_folder), upstream(draft_folder)
    gamma = ours.config.block_size
    tokens = torch.randint(2, ours.config.vocab_size, (1, ANCHOR + 9), generator=torch.Generator().manual_seed(0))
    seen = target(input_ids=tokens, output_hidden_states=True)
    features = target_features(seen.hidden_states, ours.config.target_layer_ids)[:, :ANCHOR]
    anchor = tokens[:, ANCHOR]
    places = torch.arange(ANCHOR, ANCHOR + gamma)

    hidden = ours(ours.block(anchor), places.unsqueeze(0), features)
    drafts, _ = ours.draft(hidden, anchor)
    previous = torch.cat([anchor.unsqueeze(1), drafts[:, :-1]], dim=1)

    cache = Cache()
    before = torch.arange(ANCHOR)
    theirs.write_target_hidden_kv(target_hidden=features[0], pool=cache, positions=before, cache_loc=before)
    batch = SimpleNamespace(forward_mode=ForwardMode.TARGET_VERIFY)
    with forward_context(ForwardContext(attn_backend=cache)):  # type: ignore[arg-type]
        their_hidden = theirs(ours.block(anchor)[0], places, batch).hidden_states
    base, read = theirs.compute_base_logits(their_hidden)
    bias, _ = theirs.markov_head.step_bias(previous[0], hidden_states=None, state=None)
    _, raw = theirs.compute_confidence(anchor_tokens=anchor, draft_tokens=drafts, confidence_features=read)
    pairs = {
        "hidden": (their_hidden, hidden[0]),
        "logits": (base + bias, ours.logits(hidden, previous)[0]),
        "confidence": (raw[0], ours.confidence(hidden, previous)[0]),
    }
    return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


if __name__ == "__main__":
    print(json.dumps(differences(Path(sys.argv[1]), Path(sys.argv[2]))))
