"""Train the demo pair's target, a small Qwen3, on the text of Python's standard library.

``python -m sglang_dspark.demo.build.target`` replaces the packaged target; ``make demo-pair`` builds the whole pair.
Another Python or another CPU gives another target of similar quality; on the same machine the result is the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from sglang_dspark.demo import TARGET
from sglang_dspark.demo.build import tokenizer as bpe
from sglang_dspark.demo.text import documents
from sglang_dspark.drafter.training.loop import pace
from sglang_dspark.files import write_atomically

log = logging.getLogger(__name__)

SEED = 20260705
CONTEXT = 2048
VOCABULARY = 1024
STEPS = 1600
BATCH = 8
LENGTH = 512


def architecture() -> Qwen3Config:
    """Return the architecture: 4.2 million parameters, width 256, 6 layers, tied embedding and output head."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=608,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        attention_bias=False,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=bpe.END_ID,
        pad_token_id=bpe.END_ID,
    )


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer on the training documents."""
    return bpe.train((document.text for document in documents() if not document.held_out), VOCABULARY)


def save_target(model: Qwen3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a checkpoint for transformers and SGLang, with its weights in bfloat16."""
    content = model.config.to_diff_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16"}
    content |= {"rope_theta": 10000.0, "num_hidden_layers": model.config.num_hidden_layers}
    write_atomically(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
    # Greedy by default.
    generation = {"eos_token_id": bpe.END_ID, "pad_token_id": bpe.END_ID, "do_sample": False}
    write_atomically(folder / "generation_config.json", json.dumps(generation, indent=2, sort_keys=True) + "\n")
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    write_atomically(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    bpe.save(tokenizer, folder, CONTEXT)


def stream(tokenizer: Tokenizer, held_out: bool) -> Tensor:
    """Concatenate the tokens of all training, or all held-out, documents in random order, with end tokens between."""
    chosen = [document.text for document in documents() if document.held_out == held_out]
    encoded = [torch.tensor([*encoding.ids, bpe.END_ID]) for encoding in tokenizer.encode_batch(chosen)]
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(SEED))
    return torch.cat([encoded[i] for i in order.tolist()])


def fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware, which nearly halves the time of a step."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Compute the factor of the learning rate: a linear warm-up, then a cosine to 0.05."""
    factor = pace(step, steps, warmup)
    return factor if step < warmup else 0.05 + 0.95 * factor


def train(out: Path, steps: int, peak: float = 2e-3) -> None:
    """Train for ``steps`` steps of BATCH passages of LENGTH tokens.

    The checkpoint is written every 200 steps.

    Args:
        out: Folder of the checkpoint.
        steps: Updates of the weights.
        peak: Learning rate after warm-up.
    """
    tokenizer = train_tokenizer()
    tokens, validation = stream(tokenizer, held_out=False), stream(tokenizer, held_out=True)
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM._from_config(architecture(), attn_implementation="sdpa")
    log.info("target: %d parameters, %d training tokens", sum(p.numel() for p in model.parameters()), len(tokens))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, 100))
    generator = torch.Generator().manual_seed(SEED)
    offsets = torch.empty(0, dtype=torch.long)
    started = time.monotonic()
    for step in range(steps):
        if len(offsets) < BATCH:
            # Every epoch cuts the text at other positions, so that passages do not repeat exactly.
            shift = int(torch.randint(LENGTH, (1,), generator=generator))
            cuts = torch.arange(shift, len(tokens) - LENGTH - 1, LENGTH)
            offsets = cuts[torch.randperm(len(cuts), generator=generator)]
        chosen, offsets = offsets[:BATCH], offsets[BATCH:]
        loss = _loss(model, tokens, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 20 == 0:
            rate = (step + 1) * BATCH * LENGTH / (time.monotonic() - started)
            log.info("target step %d of %d: loss %.3f, %.0f tokens/s", step, steps, float(loss.detach()), rate)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            with torch.no_grad():
                held = _loss(model, validation, torch.arange(0, len(validation) - LENGTH - 1, 4 * LENGTH))
            log.info("target step %d of %d: held-out loss %.3f", step, steps, float(held))
            save_target(model, tokenizer, out)


def _loss(model: Qwen3ForCausalLM, tokens: Tensor, offsets: Tensor) -> Tensor:
    """Compute the mean cross entropy of passages of LENGTH tokens at ``offsets``."""
    passages = tokens[offsets.unsqueeze(-1) + torch.arange(LENGTH + 1)]
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
        logits = model(input_ids=passages[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), passages[:, 1:].flatten())


def main() -> None:
    """Train the demo pair's target."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=TARGET, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates of the weights")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    train(arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
