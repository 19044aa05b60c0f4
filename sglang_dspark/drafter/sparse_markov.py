"""Markov head tables of which a checkpoint holds only the rows of some tokens."""

from __future__ import annotations

import torch
from torch import Tensor

TABLES = ("markov_head.markov_w1.weight", "markov_head.markov_w2.weight")
ROWS = "markov_head.rows"
"""int32 [n], the tokens whose rows the file holds; absent where it holds all."""


def densify(weights: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Fill the Markov tables up to [V, R] with zero rows; other weights are returned unchanged.

    Raises:
        RuntimeError: ``ROWS`` names tokens outside the vocabulary, or not as many as the tables have rows.
    """
    if ROWS not in weights:
        return weights
    dense = dict(weights)
    rows = dense.pop(ROWS).long()
    for table in TABLES:
        held = dense.get(table)
        inside = bool(((rows >= 0) & (rows < vocabulary)).all())
        if held is None or held.shape[0] != len(rows) or not inside:
            raise RuntimeError(f"{ROWS} does not fit {table}")
        dense[table] = torch.zeros(vocabulary, held.shape[1], dtype=held.dtype).index_copy(0, rows, held)
    return dense
