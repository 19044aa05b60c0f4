"""Tables of a Markov head of which a file holds some rows."""

from __future__ import annotations

import torch
from torch import Tensor

TABLES = ("markov_head.markov_w1.weight", "markov_head.markov_w2.weight")
ROWS = "markov_head.rows"
"""int32 [n], the tokens whose rows the file holds; absent where it holds all."""


def spread(weights: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """Whole tables [V, R], zeros where the file holds nothing; other weights as they are.

    Raises:
        RuntimeError: The rows are none of the vocabulary's, or not as many as the tables have.
    """
    if ROWS not in weights:
        return weights
    found = dict(weights)
    rows = found.pop(ROWS).long()
    for table in TABLES:
        held = found.get(table)
        inside = bool(((rows >= 0) & (rows < vocabulary)).all())
        if held is None or held.shape[0] != len(rows) or not inside:
            raise RuntimeError(f"{ROWS} does not fit {table}")
        found[table] = torch.zeros(vocabulary, held.shape[1], dtype=held.dtype).index_copy(0, rows, held)
    return found
