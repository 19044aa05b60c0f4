"""Which keys a query sees: one rule a family, as a dense mask or as a block-sparse one for FlexAttention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from sglang_dspark.drafter.layers import Mask

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Sequence, head, query and key, all as indices, to whether the query sees the key."""


def packed_blocks(anchors: Tensor, context: int, block: int) -> Rule:
    """A block's tokens see the text before their anchor, and one another.

    Args:
        anchors: [B, N] places of the anchors of N blocks of the same sequence.
        context: S; keys are the text's S tokens, then the N * block tokens of the blocks, which are the queries.
        block: tokens of a block.
    """

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        before = (key < context) & (key < anchors[sequence, query // block])
        # The text's keys give a negative number of a block, rounded away from all blocks.
        same = torch.div(key - context, block, rounding_mode="floor") == query // block
        return before | (same & (key >= context))

    return sees


def unrolled(context: int) -> Rule:
    """Step k of test-time unrolling: chunk 0 of the keys causally, and of the later chunks its own place.

    Args:
        context: S; keys are k + 1 chunks of S, one a step, queries the S of the last.
    """

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(key < context, key <= query, key % context == query)

    return sees


def build(rule: Rule, sequences: int, queries: int, keys: int, device: torch.device) -> Mask:
    """The mask, block-sparse on a GPU and dense elsewhere."""
    if device.type == "cuda":
        return create_block_mask(rule, sequences, None, queries, keys, device=device)
    return dense(rule, sequences, queries, keys)


def dense(rule: Rule, sequences: int, queries: int, keys: int) -> Tensor:
    """[B, 1, Q, K], true where seen."""
    sequence, query, key = torch.arange(sequences), torch.arange(queries), torch.arange(keys)
    head = torch.zeros(1, dtype=torch.long)
    return rule(sequence.view(-1, 1, 1, 1), head, query.view(-1, 1), key).expand(sequences, 1, queries, keys)
