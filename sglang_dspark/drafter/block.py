"""Block drafters: DSpark, and DFlash, the same backbone without a serial head (arXiv 2607.05147, section 3).

A block is its anchor and mask tokens, at the anchor's position and on; one pass gives their hidden states. In DSpark,
and in DeepSpec's DFlash, place k is drafted from the k-th token of the block, the anchor being the 0th. SGLang's DFlash
has a mask token for each draft and makes nothing of the anchor's own hidden state. The target's hidden states,
projected, take the place of the drafter's own where keys and values of the text before the anchor are made. Within a
block every token sees every other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sglang_dspark.drafter import masks
from sglang_dspark.drafter.base import Batch, Drafter, Proposal, sample
from sglang_dspark.drafter.config import BlockConfig
from sglang_dspark.drafter.heads import SERIAL_HEADS, ConfidenceHead
from sglang_dspark.drafter.layers import Layer, Mask, norm, rope


class BlockDrafter(Drafter[BlockConfig]):
    """Parallel backbone; for DSpark a serial head and a confidence head on top."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.hidden_norm = norm(config)
        self.markov_head = SERIAL_HEADS[config.markov_head_type](config) if config.markov_rank else None
        self.confidence_head = ConfidenceHead(config) if config.enable_confidence_head else None

    def forward(self, tokens: Tensor, positions: Tensor, features: Tensor, mask: Mask = None) -> Tensor:
        """Hidden states of blocks.

        Args:
            tokens: [B, Q] anchor and mask tokens of each block.
            positions: [B, Q] their places in the text, from 0.
            features: [B, S, L * H] of the text from its first token on.
            mask: of :func:`masks.packed_blocks`; without one every block token sees everything given.

        Returns:
            [B, Q, H], normed: what the output head and the confidence head read.
        """
        context = self.hidden_norm(self.fc(features))
        places = torch.arange(context.shape[1], device=positions.device).expand(len(tokens), -1)
        turns = rope(self.config, torch.cat([places, positions], dim=1), self.norm.weight.dtype)
        own = (turns[0][:, :, context.shape[1] :], turns[1][:, :, context.shape[1] :])
        hidden = self.embed(tokens)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            # The injected context is not normed again in each layer.
            keys, values = attention.keys_values(torch.cat([context, normed], dim=1), turns)
            hidden = layer.after(hidden, attention.attend(attention.queries(normed, own), keys, values, mask))
        output: Tensor = self.norm(hidden)
        return output

    def block(self, anchors: Tensor) -> Tensor:
        """The tokens of blocks, [..., block_size], from their anchors [...]."""
        blocks = anchors.new_full((*anchors.shape, self.config.block_size), self.config.mask_token_id)
        blocks[..., 0] = anchors
        return blocks

    def drafting(self, hidden: Tensor) -> Tensor:
        """[..., gamma, H] the hidden states that draft, of [..., block_size, H]."""
        return hidden[..., int(self.config.masks_only) :, :]

    def logits(self, hidden: Tensor, previous: Tensor, columns: Tensor | None = None) -> Tensor:
        """[..., gamma, V] from hidden states [..., gamma, H] and the token before each draft [..., gamma]."""
        base = self.cap(self.head(hidden, columns))
        return base if self.markov_head is None else base + self.markov_head(previous, hidden, columns)

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor | None:
        """Raw logits [...] of acceptance, before any temperature scaling; arguments as of :meth:`logits`."""
        if self.confidence_head is None:
            return None
        if self.config.confidence_head_with_markov:
            assert self.markov_head is not None
            hidden = torch.cat([hidden, self.markov_head.markov_w1(previous).to(hidden.dtype)], dim=-1)
        logits: Tensor = self.confidence_head(hidden)
        return logits

    def forced(
        self, batch: Batch, anchors: Tensor, previous: Tensor, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        size = self.config.block_size
        sequences, length = batch.tokens.shape
        places = anchors.unsqueeze(-1) + torch.arange(size, device=anchors.device)
        rule = masks.packed_blocks(anchors, length, size)
        queries = anchors.shape[1] * size
        mask = masks.build(rule, sequences, queries, length + queries, anchors.device)
        tokens = self.block(previous[..., 0]).flatten(1)
        hidden = self(tokens, places.flatten(1), batch.features, mask).view(*places.shape, -1)
        hidden = self.drafting(hidden)
        return self.logits(hidden, previous, columns), self.confidence(hidden, previous)

    @torch.no_grad()
    def propose(
        self,
        tokens: Tensor,
        lengths: Tensor,
        features: Tensor,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Proposal:
        rows = torch.arange(len(tokens), device=tokens.device)
        anchors = lengths - 1
        context = int(anchors.max())
        size = self.config.block_size
        rule = masks.packed_blocks(anchors.unsqueeze(-1), context, size)
        mask = masks.build(rule, len(tokens), size, context + size, tokens.device)
        positions = anchors.unsqueeze(-1) + torch.arange(size, device=tokens.device)
        hidden = self(self.block(tokens[rows, anchors]), positions, features[:, :context], mask)
        return self.draft(self.drafting(hidden), tokens[rows, anchors], temperature, generator)

    @torch.no_grad()
    def draft(
        self, hidden: Tensor, anchors: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> Proposal:
        """Drafts blocks left to right from their hidden states [B, gamma, H] and anchors' tokens [B]."""
        base = self.cap(self.head(hidden))
        tokens, probabilities = [], []
        previous, state = anchors, None
        for place in range(hidden.shape[1]):
            logits = base[:, place]
            if self.markov_head is not None:
                latent, state = self.markov_head.step(previous, hidden[:, place], state)
                logits = logits + self.markov_head.markov_w2(latent)
            previous, distribution = sample(logits.float(), temperature, generator)
            tokens.append(previous)
            probabilities.append(distribution)
        drafts = torch.stack(tokens, dim=1)
        before = torch.cat([anchors.unsqueeze(1), drafts[:, :-1]], dim=1)
        return Proposal(drafts, torch.stack(probabilities, dim=1), self.confidence(hidden, before))
