"""Grouped-query attention for transformers' models that does not repeat keys and values for every query head.

transformers' ``sdpa`` repeats them where a mask is given; in a batch of prompts of different lengths that is most of
the time of a decoding step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grouped"


def use(model: PreTrainedModel) -> None:
    """Make a model use this attention from now on."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``sdpa_attention_forward``: [B, heads, n, D] over keys [B, groups, S, D] to [B, n, heads, D].

    When one token is decoded, the queries of a group are rows of one matrix and share the mask [B, 1, 1, S].
    """
    texts, heads, tokens, width = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    rows = query.view(texts, key.shape[1], -1, width)
    out = functional.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(texts, 1, heads, width), None
