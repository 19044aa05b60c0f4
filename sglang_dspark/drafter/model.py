"""The DSpark drafter for Qwen3 targets in PyTorch (arXiv 2607.05147, section 3), in DeepSpec's checkpoint layout.

A block is the anchor, the last token of the text, and gamma - 1 mask tokens, at the anchor's position and on. One pass
gives the hidden states of its gamma positions; from the one at place k the token after it is predicted. Blocks see the
context only through the target: the outputs of some of its layers, concatenated and projected, take the place of the
drafter's own hidden states where keys and values of the tokens before the anchor are made. Within a block every
position sees every other. Names of modules are those of the checkpoint.

Letters in shapes: B sequences, S context tokens, Q block tokens (gamma times blocks), H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

WEIGHTS = "model.safetensors"


def target_features(hidden_states: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """What is injected, [B, S, len(layers) * H], from transformers' ``output_hidden_states``.

    ``hidden_states[0]`` is the embedding, so the output of layer ``i`` is at ``i + 1``.
    """
    return torch.cat([hidden_states[layer + 1] for layer in layers], dim=-1)


def blocks_mask(anchors: Tensor, context: int, gamma: int) -> Tensor:
    """Which of the context and of all block tokens each block token sees.

    Args:
        anchors: [B, N] positions of the anchors of N blocks of the same sequence.
        context: S; of it a block sees what is before its anchor.

    Returns:
        [B, 1, N * gamma, S + N * gamma], true where seen.
    """
    count = anchors.shape[1]
    before = torch.arange(context) < anchors.repeat_interleave(gamma, dim=1).unsqueeze(-1)
    block = torch.arange(count).repeat_interleave(gamma)
    same = (block.unsqueeze(0) == block.unsqueeze(1)).expand(len(anchors), -1, -1)
    return torch.cat([before, same], dim=-1).unsqueeze(1)


class MarkovHead(nn.Module):
    """The bias that the token before adds to a position's logits, of low rank: ``W2 W1[x]``."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def forward(self, previous: Tensor) -> Tensor:
        """``previous`` [...] tokens to biases [..., V]."""
        bias: Tensor = self.markov_w2(self.markov_w1(previous))
        return bias


class ConfidenceHead(nn.Module):
    """The logit that a draft is accepted, given that those before it were: linear in ``[h; W1[x]]``."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank, 1)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """``hidden`` [..., H] and the embedded token before [..., rank] to logits [...]."""
        logits: Tensor = self.proj(torch.cat([hidden, embedded], dim=-1)).squeeze(-1)
        return logits


class Attention(nn.Module):
    """Attention of block tokens over injected context and over their own block; queries and keys are normed."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """``hidden`` [B, Q, H] and ``context`` [B, S, H] to [B, Q, H]; ``rope`` is for context, then block tokens."""
        source = torch.cat([context, hidden], dim=1)
        queries = self.q_norm(self.q_proj(hidden).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        keys = self.k_norm(self.k_proj(source).unflatten(-1, (self.kv_heads, -1))).transpose(1, 2)
        values = self.v_proj(source).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        cos, sin = rope
        queries = _rotate(queries, cos[:, :, -hidden.shape[1] :], sin[:, :, -hidden.shape[1] :])
        keys = _rotate(keys, cos, sin)
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
        output: Tensor = self.o_proj(seen.transpose(1, 2).flatten(-2))
        return output


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Layer(nn.Module):
    """One pre-norm transformer layer. The injected context is not normed again here."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, hidden: Tensor, context: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), context, rope, mask)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class Drafter(nn.Module):
    """Parallel backbone, Markov head and confidence head. Embedding and output head are the target's, and frozen."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fc = nn.Linear(len(config.target_layer_ids) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.markov_head = MarkovHead(config)
        self.confidence_head = ConfidenceHead(config)
        self.embed_tokens.requires_grad_(False)
        self.lm_head.requires_grad_(False)

    def initialize(self, embedding: Tensor, head: Tensor) -> None:
        """Random weights, from torch's global generator, and the target's [V, H] embedding and output head."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            self.embed_tokens.weight.copy_(embedding)
            self.lm_head.weight.copy_(head)

    def forward(self, tokens: Tensor, positions: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states of blocks.

        Args:
            tokens: [B, Q] anchor and mask tokens of each block.
            positions: [B, Q] their places in the text, from 0.
            features: [B, S, layers * H], :func:`target_features` of the text from its first token on.
            mask: as :func:`blocks_mask` gives it; without one every block token sees everything given.

        Returns:
            [B, Q, H], normed: what the output head and the confidence head read.
        """
        context = self.hidden_norm(self.fc(features))
        places = torch.arange(context.shape[1]).expand(len(tokens), -1)
        rope = self._rope(torch.cat([places, positions], dim=1))
        hidden = self.embed_tokens(tokens)
        for layer in self.layers:
            hidden = layer(hidden, context, rope, mask)
        output: Tensor = self.norm(hidden)
        return output

    def block(self, anchors: Tensor) -> Tensor:
        """The tokens of blocks, [..., gamma], from their anchors [...]."""
        blocks = anchors.new_full((*anchors.shape, self.config.block_size), self.config.mask_token_id)
        blocks[..., 0] = anchors
        return blocks

    def logits(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """[..., V] from hidden states [..., H] and the token before each predicted one [...]."""
        output: Tensor = self.lm_head(hidden) + self.markov_head(previous)
        return output

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """Raw logits [...] of acceptance, before any temperature scaling; arguments as of :meth:`logits`."""
        logits: Tensor = self.confidence_head(hidden, self.markov_head.markov_w1(previous))
        return logits

    def draft(
        self, hidden: Tensor, anchors: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Drafts blocks left to right.

        Args:
            hidden: [N, gamma, H] of N blocks.
            anchors: [N] tokens.
            temperature: of the sampling; 0 takes the likeliest token.
            generator: of the samples.

        Returns:
            Tokens [N, gamma] and the probabilities they were drawn from [N, gamma, V] (one-hot at temperature 0).
        """
        base = self.lm_head(hidden)
        tokens, probabilities = [], []
        previous = anchors
        for place in range(hidden.shape[1]):
            step = base[:, place] + self.markov_head(previous)
            if temperature == 0.0:
                previous = step.argmax(-1)
                distribution = functional.one_hot(previous, step.shape[-1]).to(step.dtype)
            else:
                distribution = torch.softmax(step / temperature, dim=-1)
                previous = torch.multinomial(distribution, 1, generator=generator).squeeze(-1)
            tokens.append(previous)
            probabilities.append(distribution)
        return torch.stack(tokens, dim=1), torch.stack(probabilities, dim=1)

    @classmethod
    def from_pretrained(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Drafter:
        """Reads a checkpoint in DeepSpec's layout and casts it to ``dtype``.

        Raises:
            InputError: Files are absent, or hold another model than ``config.json`` says.
        """
        model = cls(DraftConfig.load(folder))
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{folder}: holds no *.safetensors; give the folder of a checkpoint")
        weights: dict[str, Tensor] = {}
        try:
            for file in files:
                weights |= load_file(file)
            model.load_state_dict(weights)
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"{folder}: weights do not fit config.json ({' '.join(str(error).split())})") from error
        return model.to(dtype)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, its weights in bfloat16."""
        self.config.save(folder)
        weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [B, 1, length, head_dim], of places [B, length]."""
        exponents = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32) / self.config.head_dim
        angles = positions.float().unsqueeze(-1) / self.config.rope_theta**exponents
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        dtype = self.norm.weight.dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in which a coordinate's partner is half a head away."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
