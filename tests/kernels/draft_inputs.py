"""Inputs of the kernels, made up from a seed."""

from __future__ import annotations

from typing import NamedTuple

import torch

from dspark_kernels.heads import CHUNKS, Kind, MarkovHead

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Block(NamedTuple):
    """What a draft block is drawn from."""

    head: MarkovHead
    logits: torch.Tensor
    anchors: torch.Tensor
    hidden: torch.Tensor
    temperatures: torch.Tensor
    requests: torch.Tensor
    positions: torch.Tensor


def block(
    seed: int, kind: Kind, dtype: torch.dtype, rows: int, gamma: int, vocab: int, rank: int, hidden: int = 24
) -> Block:
    """Random weights and logits; a third of the rows greedy."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=random) * scale).to(dtype)

    chunks = CHUNKS[kind]
    inputs = hidden + rank * (2 if kind == "rnn" else 1)
    head = MarkovHead(
        kind,
        normal(vocab, rank),
        normal(vocab, rank, scale=0.4),
        normal(chunks * rank, inputs, scale=0.2) if chunks else None,
        normal(chunks * rank) if chunks else None,
    )
    temperatures = torch.rand(rows, generator=random) * 1.5 + 0.05
    temperatures[::3] = 0.0
    return Block(
        head,
        normal(rows, gamma, vocab, scale=2.0),
        torch.randint(0, vocab, (rows,), generator=random),
        normal(rows, gamma, hidden),
        temperatures,
        torch.randint(-(1 << 62), 1 << 62, (rows,), generator=random),
        torch.randint(0, 1 << 20, (rows,), generator=random),
    )


def integers(given: Block, most: int = 2) -> Block:
    """The same with small integers for weights and logits: products are exact, and there are ties."""
    random = torch.Generator().manual_seed(1)

    def whole(like: torch.Tensor) -> torch.Tensor:
        return torch.randint(-most, most + 1, like.shape, generator=random).to(like.dtype)

    head = given.head._replace(w1=whole(given.head.w1), w2=whole(given.head.w2))
    return given._replace(head=head, logits=whole(given.logits))
