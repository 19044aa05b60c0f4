"""Compact checkpoints: without the target's weights, and with the Markov rows of the trained tokens only.

    python -m sglang_dspark.drafter.compact shrink DRAFT OUT --target TARGET --texts FILE ...
    python -m sglang_dspark.drafter.compact expand DRAFT OUT

Markov rows of tokens that occur in no training text are replaced by zeros, which the compact file leaves out. This
package reads both forms; SGLang reads the output of ``expand``, which has whole tables but not the target's embedding
and output head.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from sglang_dspark.drafter import checkpoint
from sglang_dspark.drafter.base import WEIGHTS
from sglang_dspark.drafter.data.passages import passages
from sglang_dspark.drafter.sparse_markov import ROWS, TABLES
from sglang_dspark.drafter.target import load_tokenizer
from sglang_dspark.errors import InputError, end
from sglang_dspark.files import write_atomically


def shrink(folder: Path, out: Path, tokens: Iterable[int]) -> None:
    """Write the compact form of a checkpoint with the Markov rows of ``tokens``.

    Raises:
        InputError: The checkpoint cannot be read, or has no Markov head.
    """
    drafter = checkpoint.load(folder, torch.bfloat16)
    weights = drafter.own_weights()
    if not set(TABLES) <= weights.keys():
        raise InputError(f"{folder}: has no Markov head; only a DSpark draft has a compact form")
    rows = torch.tensor(sorted(set(tokens)), dtype=torch.int32)
    for table in TABLES:
        weights[table] = weights[table][rows.long()].contiguous()
    weights[ROWS] = rows
    drafter.config.save(out)
    write_atomically(out / WEIGHTS, save(weights, metadata={"format": "pt"}))


def expand(folder: Path, out: Path) -> None:
    """Write a checkpoint with whole tables, as SGLang reads it."""
    checkpoint.load(folder, torch.bfloat16).save(out, shared=False)


def main() -> None:
    """Shrink or expand a draft checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m sglang_dspark.drafter.compact", description=main.__doc__)
    parser.add_argument("what", choices=("shrink", "expand"))
    parser.add_argument("draft", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", help="the target whose tokenizer reads the texts")
    parser.add_argument("--texts", type=Path, nargs="+", help="the texts that the draft was trained on")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens of a text, as in the recipe")
    given = parser.parse_args()
    try:
        if given.what == "expand":
            expand(given.draft, given.out)
        elif given.target is None or given.texts is None:
            parser.error("shrink needs --target and --texts")
        else:
            texts = passages(given.texts, load_tokenizer(given.target), given.max_length)
            shrink(given.draft, given.out, np.unique(np.concatenate([text.tokens for text in texts])).tolist())
    except InputError as error:
        end("compact", error)
    size = (given.out / WEIGHTS).stat().st_size
    print(f"{given.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
