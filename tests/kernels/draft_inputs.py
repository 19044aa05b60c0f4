"""Random inputs of draft blocks."""

from __future__ import annotations

import torch

from dspark_kernels.batches import DraftBatch
from dspark_kernels.heads import CHUNKS, Kind, MarkovHead

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SEED = 1234567890123


def block(
    seed: int, kind: Kind, dtype: torch.dtype, rows: int, gamma: int, vocab: int, rank: int, hidden: int = 24
) -> DraftBatch:
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
    return DraftBatch(
        head,
        normal(rows, gamma, vocab, scale=2.0),
        torch.randint(0, vocab, (rows,), generator=random),
        normal(rows, gamma, hidden),
        temperatures,
        torch.randint(-(1 << 62), 1 << 62, (rows,), generator=random),
        torch.randint(0, 1 << 20, (rows,), generator=random),
        SEED,
    )


def integers(given: DraftBatch, most: int = 2) -> DraftBatch:
    """Replace weights and logits by small integers, so that products are exact and there are ties."""
    random = torch.Generator().manual_seed(1)

    def whole(like: torch.Tensor) -> torch.Tensor:
        return torch.randint(-most, most + 1, like.shape, generator=random).to(like.dtype)

    head = given.head._replace(w1=whole(given.head.w1), w2=whole(given.head.w2))
    return given._replace(head=head, base_logits=whole(given.base_logits))
