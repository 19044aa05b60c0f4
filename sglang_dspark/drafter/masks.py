"""Attention masks of the families, dense or block-sparse for FlexAttention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from sglang_dspark.drafter.layers import Mask

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Map indices of sequence, head, query and key to whether the query sees the key."""


def packed_blocks(anchors: Tensor, context: int, block: int) -> Rule:
    """Make the rule by which a block's tokens see the text before their anchor, and one another.

    Args:
        anchors: [B, N] positions of the anchors of N blocks per sequence.
        context: S; keys are the text's S tokens, then the N * block tokens of the blocks, which are the queries.
        block: Tokens of a block.
    """

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        before = (key < context) & (key < anchors[sequence, query // block])
        # Keys of the text give a negative block number, which equals no query's block.
        same = torch.div(key - context, block, rounding_mode="floor") == query // block
        return before | (same & (key >= context))

    return sees


def unrolled(context: int) -> Rule:
    """Make the rule of step k of Eagle3's unrolling: causal in chunk 0 of the keys, and the own index in later chunks.

    Args:
        context: S; keys are k + 1 chunks of S tokens, one per step; queries are those of the last step.
    """

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(key < context, key <= query, key % context == query)

    return sees


def build(rule: Rule, sequences: int, queries: int, keys: int, device: torch.device) -> Mask:
    """Build a mask, block-sparse on a GPU and dense elsewhere."""
    if device.type == "cuda":
        return create_block_mask(rule, sequences, None, queries, keys, device=device)
    return dense(rule, sequences, queries, keys)


def dense(rule: Rule, sequences: int, queries: int, keys: int) -> Tensor:
    """Build a dense mask [B, 1, Q, K], True where a query sees a key."""
    sequence, query, key = torch.arange(sequences), torch.arange(queries), torch.arange(keys)
    head = torch.zeros(1, dtype=torch.long)
    return rule(sequence.view(-1, 1, 1, 1), head, query.view(-1, 1), key).expand(sequences, 1, queries, keys)
