"""Trains the demo pair's drafter on what its target writes, which is what a server asks it to foresee."""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, Qwen3ForCausalLM

from sglang_dspark.drafter import tokenizer as bpe
from sglang_dspark.drafter.base import Batch
from sglang_dspark.drafter.block import BlockDrafter
from sglang_dspark.drafter.config import BlockConfig
from sglang_dspark.drafter.layers import Layer
from sglang_dspark.drafter.losses import Weights, losses
from sglang_dspark.drafter.target import Target
from sglang_dspark.drafter.train_target import SEED, fast_bfloat16, learning_rate, load, stream

log = logging.getLogger(__name__)

GAMMA = 7
STEPS = 8000
SEQUENCES = 768
LENGTH = 384
BATCH = 4
ANCHORS = 32

# Of the paper, whose places weigh exp(-(k - 1) / gamma).
WEIGHTS = Weights(0.1, 0.9, 1.0, 0.0, place_ratio=math.exp(-1.0 / GAMMA))

# Half of what is generated is greedy, as the demo's requests are; the rest follows the target's own distribution, more
# or less sharpened.
_TEMPERATURES = (0.0, 0.0, 0.7, 1.0)
# Prompts of several lengths; generation goes on to LENGTH.
_PROMPTS = (32, 64, 128)


def architecture(target: Qwen3ForCausalLM) -> BlockConfig:
    """1.6 million parameters, a third of them the target's embedding and output head."""
    config = target.config
    assert isinstance(config.rope_parameters, dict) and config.num_key_value_heads is not None
    return BlockConfig(
        architecture="Qwen3DSparkModel",
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_parameters["rope_theta"] or 1e4,
        max_position_embeddings=config.max_position_embeddings,
        block_size=GAMMA,
        mask_token_id=bpe.MASK_ID,
        target_layer_ids=(0, 2, 4),
        num_target_layers=config.num_hidden_layers,
        num_anchors=ANCHORS,
        markov_rank=32,
        enable_confidence_head=True,
        confidence_head_with_markov=True,
    )


@torch.no_grad()
def generate(
    target: Qwen3ForCausalLM, prompts: Tensor, length: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Continues ``prompts`` [B, P] to [B, length]. An end token does not end a row: the next document begins."""
    cache = DynamicCache(config=target.config)
    rows = [prompts]
    tokens = prompts
    for _ in range(length - prompts.shape[1]):
        logits = target(input_ids=tokens, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        if temperature == 0.0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            tokens = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
        rows.append(tokens)
    return torch.cat(rows, dim=1)


def own_text(target: Qwen3ForCausalLM, tokenizer: Tokenizer, sequences: int, length: int) -> tuple[Tensor, Tensor]:
    """What the target writes after passages of its training text.

    Returns:
        Tokens [sequences, length], and [sequences] how many of them are the prompt.
    """
    tokens = stream(tokenizer, held_out=False)
    generator = torch.Generator().manual_seed(SEED)
    texts, prompts = [], []
    batch = 64
    started = time.monotonic()
    for i in range(sequences // batch):
        prompt = _PROMPTS[i // len(_TEMPERATURES) % len(_PROMPTS)]
        offsets = torch.randint(len(tokens) - prompt, (batch, 1), generator=generator)
        passages = tokens[offsets + torch.arange(prompt)]
        texts.append(generate(target, passages, length, _TEMPERATURES[i % len(_TEMPERATURES)], generator))
        prompts.append(torch.full((batch,), prompt))
        if i % 4 == 3:
            log.info("own text: %d of %d in %.0f s", (i + 1) * batch, sequences, time.monotonic() - started)
    return torch.cat(texts), torch.cat(prompts)


def start(drafter: BlockDrafter, target: Qwen3ForCausalLM, text: Tensor) -> None:
    """Weights that spare training its first hundreds of steps.

    Every layer gets the attention of the target's last one, and the context what that one reads. The Markov head learns
    which token follows which in ``text``; the logits that it is added to start near zero.
    """
    drafter.initialize(target.model.embed_tokens.weight, target.lm_head.weight)
    last = target.model.layers[-1]
    width = drafter.config.hidden_size
    with torch.no_grad():
        for layer in drafter.layers:
            assert isinstance(layer, Layer)
            layer.self_attn.load_state_dict(last.self_attn.state_dict())
            layer.input_layernorm.load_state_dict(last.input_layernorm.state_dict())
        drafter.hidden_norm.load_state_dict(last.input_layernorm.state_dict())
        drafter.fc.weight[:, -width:] += torch.eye(width)
        drafter.norm.weight.copy_(0.1 * target.model.norm.weight)
    markov = drafter.markov_head
    assert markov is not None
    optimizer = torch.optim.AdamW(markov.parameters(), lr=2e-2, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(300):
        places = torch.randint(len(text) - 1, (4096,), generator=generator)
        logits = markov.markov_w2(markov.markov_w1(text[places]))
        loss = torch.nn.functional.cross_entropy(logits, text[places + 1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    log.info("Markov head alone: cross entropy %.3f", float(loss.detach()))


class Passages(NamedTuple):
    """Texts with what the frozen target makes of them, in float16, so that it looks at each text once."""

    tokens: Tensor
    """[N, S]."""

    first: Tensor
    """[N] the first place where a block may begin."""

    features: Tensor
    """[N, S, layers * H], as of :class:`target.Seen`."""

    last: Tensor
    """[N, S, H], what the target's output head reads."""


@torch.no_grad()
def look(target: Qwen3ForCausalLM, layers: Sequence[int], tokens: Tensor, first: Tensor) -> Passages:
    """Runs the target over texts [N, S]."""
    features, last = [], []
    seeing = Target(target)
    for rows in tokens.split(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            seen = seeing.look(rows, layers)
        features.append(seen.features.half())
        last.append(seen.last.half())
    return Passages(tokens, first, torch.cat(features), torch.cat(last))


def train(target_folder: Path, out: Path, steps: int, peak: float = 3e-3) -> None:
    """Distils the target in ``target_folder`` into a drafter and writes it to ``out``.

    Three batches of four are the target's own writing, from the prompts' ends on; the fourth is its training text, in
    passages twice as long, so that long contexts are known too.
    """
    target = load(target_folder).requires_grad_(False)
    tokenizer = Tokenizer.from_file(str(target_folder / "tokenizer.json"))
    torch.manual_seed(SEED)
    drafter = BlockDrafter(architecture(target))
    text = stream(tokenizer, held_out=False)
    start(drafter, target, text)
    layers = drafter.config.target_layer_ids
    written, prompts = own_text(target, tokenizer, SEQUENCES, LENGTH)
    own = look(target, layers, written, prompts - 1)
    generator = torch.Generator().manual_seed(SEED)
    offsets = torch.randint(len(text) - 2 * LENGTH, (SEQUENCES // 4, 1), generator=generator)
    passages = text[offsets + torch.arange(2 * LENGTH)]
    corpus = look(target, layers, passages, torch.ones(len(passages), dtype=torch.long))
    trained = [p for p in drafter.parameters() if p.requires_grad]
    log.info("drafter: %d trained parameters", sum(p.numel() for p in trained))
    optimizer = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, 60))
    started = time.monotonic()
    for step in range(steps):
        texts, rows, count = (own, BATCH, ANCHORS) if step % 4 else (corpus, BATCH // 2, 2 * ANCHORS)
        chosen = torch.randint(len(texts.tokens), (rows,), generator=generator)
        tokens, first = texts.tokens[chosen], texts.first[chosen].unsqueeze(-1)
        draws = torch.rand((rows, count), generator=generator)
        anchors = first + (draws * (tokens.shape[1] - 1 - first)).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            everywhere = torch.ones_like(tokens, dtype=torch.bool)
            batch = Batch(tokens, everywhere, texts.features[chosen].float(), texts.last[chosen].float())
            forced = drafter.score(batch, anchors, torch.ones_like(anchors, dtype=torch.bool))
        terms = losses(forced, WEIGHTS)
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        # Not a multiple of four: both kinds of batches are seen.
        if step % 25 == 0:
            said = ", ".join(f"{name} {float(term.detach()):.3f}" for name, term in terms._asdict().items())
            pace = (time.monotonic() - started) / (step + 1)
            log.info("drafter step %d of %d: %s, %.2f s a step", step, steps, said, pace)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            drafter.save(out)


def main() -> None:
    """``python -m sglang_dspark.drafter.train_drafter TARGET OUT --steps N``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    train(arguments.target, arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
