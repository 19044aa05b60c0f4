"""Attention of transformers' models that does not copy the keys and values of a group for each of its query heads.

``sdpa`` does where a mask is given, which in a batch of prompts of several lengths is most of a decoding step.
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
    """Has the model attend so from now on."""
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
    """As ``sdpa_attention_forward``: query [B, heads, n, D], key and value [B, groups, S, D], to [B, n, heads, D].

    Where one token is decoded, the queries of a group are rows of one matrix and share its mask [B, 1, 1, S].
    """
    texts, heads, tokens, width = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    rows = query.view(texts, key.shape[1], -1, width)
    out = functional.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(texts, 1, heads, width), None
