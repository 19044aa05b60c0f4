"""Transformer layers of drafters, in the styles of Qwen3, Llama and Gemma 4. Names of modules are those of checkpoints.

Letters in shapes: B sequences, Q queries, K keys, H hidden size, D head_dim.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from sglang_dspark.drafter.config import DraftConfig

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, each [B, 1, length, D]."""
Mask = Tensor | BlockMask | None
"""True where a query sees a key, [B or 1, 1, Q, K], or the same for FlexAttention; None where all keys are seen."""


def norm(config: DraftConfig, width: int | None = None) -> nn.RMSNorm:
    """Make the norm that all styles share."""
    return nn.RMSNorm(width or config.hidden_size, eps=config.rms_norm_eps)


def rope(config: DraftConfig, positions: Tensor, dtype: torch.dtype) -> Rope:
    """Compute cosines and sines of positions [B, length]; Gemma 4 rotates only the first ``rotary_share`` of a head."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    frequencies = config.rope_theta**-exponents
    frequencies[int(config.rotary_share * config.head_dim / 2) :] = 0.0
    angles = positions.float().unsqueeze(-1) * frequencies
    angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Attention(nn.Module):
    """Attention whose keys and values may come from another source than its queries.

    Qwen3 norms queries and keys. Gemma 4 also norms values, does not scale, and may reuse the key projection as values.
    """

    def __init__(self, config: DraftConfig, width: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        gemma = config.style == "gemma4"
        self.scale = 1.0 if gemma else self.head_dim**-0.5
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = None if config.keys_are_values else nn.Linear(width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        unnormed = config.style == "llama"
        self.q_norm: nn.Module = nn.Identity() if unnormed else norm(config, self.head_dim)
        self.k_norm: nn.Module = nn.Identity() if unnormed else norm(config, self.head_dim)
        self.v_norm: nn.Module = (
            nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps, elementwise_affine=False) if gemma else nn.Identity()
        )

    def queries(self, source: Tensor, rope: Rope) -> Tensor:
        """Project [B, Q, width] to queries [B, heads, Q, D]."""
        return _rotate(self.q_norm(self.q_proj(source).unflatten(-1, (self.heads, -1))).transpose(1, 2), rope)

    def keys_values(self, source: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """Project [B, K, width] to keys and values, [B, kv_heads, K, D] each."""
        projected = self.k_proj(source).unflatten(-1, (self.kv_heads, -1))
        keys = _rotate(self.k_norm(projected).transpose(1, 2), rope)
        values = projected if self.v_proj is None else self.v_proj(source).unflatten(-1, (self.kv_heads, -1))
        return keys, self.v_norm(values).transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        """Attend and project the output to [B, Q, H]."""
        # Under autocast, rotary embeddings return float32 where the values are bfloat16.
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)
        if isinstance(mask, BlockMask):
            attended = _flex(queries.is_cuda)(queries, keys, values, block_mask=mask, scale=self.scale, enable_gqa=True)
        else:
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=self.scale, enable_gqa=True
            )
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(-2))
        return output


class FeedForward(nn.Module):
    """A feed-forward layer gated by SiLU, or by GELU in Gemma 4."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gelu = config.style == "gemma4"

    def forward(self, hidden: Tensor) -> Tensor:
        gate = self.gate_proj(hidden)
        gate = functional.gelu(gate, approximate="tanh") if self.gelu else functional.silu(gate)
        output: Tensor = self.down_proj(gate * self.up_proj(hidden))
        return output


class Layer(nn.Module):
    """Norms and residuals around attention and feed-forward; the families decide what attends to what."""

    layer_scalar: Tensor

    def __init__(self, config: DraftConfig, width: int | None = None) -> None:
        super().__init__()
        self.input_layernorm = norm(config)
        self.self_attn = Attention(config, width or config.hidden_size)
        self.post_attention_layernorm = norm(config)
        self.mlp = FeedForward(config)
        self.gemma = config.style == "gemma4"
        if self.gemma:
            self.pre_feedforward_layernorm = norm(config)
            self.post_feedforward_layernorm = norm(config)
            self.register_buffer("layer_scalar", torch.ones(1))

    def after(self, residual: Tensor, attended: Tensor) -> Tensor:
        """Compute the layer's output [B, Q, H] from its input and the output of its attention."""
        if self.gemma:
            hidden = residual + self.post_attention_layernorm(attended)
            hidden = hidden + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden)))
            scaled: Tensor = hidden * self.layer_scalar
            return scaled
        hidden = residual + attended
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


def _rotate(states: Tensor, rope: Rope) -> Tensor:
    """Apply the rotary embedding that pairs coordinates half a head apart."""
    cos, sin = rope
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


@cache
def _flex(compiled: bool) -> Any:
    # Uncompiled FlexAttention materialises all scores, which is acceptable in tests only.
    return torch.compile(flex_attention) if compiled else flex_attention
