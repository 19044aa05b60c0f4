"""Eagle3 (arXiv 2503.01840): one autoregressive layer over the target's fused hidden states.

At place i the layer reads the hidden state of token i, which is the target's, fused, or its own output of the step
before, and the embedding of token i + 1, and drafts token i + 2. Training unrolls what drafting does: step k, at the
same i, stands for place i + k, reads the layer's output of step k - 1 and sees the target's states up to i and its own
since.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sglang_dspark.drafter import masks
from sglang_dspark.drafter.base import Batch, Drafter, Proposal, sample
from sglang_dspark.drafter.config import Eagle3Config
from sglang_dspark.drafter.layers import Layer, Mask, norm, rope


class EagleLayer(Layer):
    """A layer that attends over embedding and hidden state side by side."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config, width=2 * config.hidden_size)
        self.hidden_norm = norm(config)


class Eagle3Drafter(Drafter[Eagle3Config]):
    """The layer, its norm before the output head, and the projection that fuses the target's states."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([EagleLayer(config)])

    def forward(
        self,
        tokens: Tensor,
        hidden: Tensor,
        positions: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Mask = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step.

        Args:
            tokens: [B, Q], each the one after the place of its hidden state.
            hidden: [B, Q, H], fused states of the target or outputs of the step before.
            positions: [B, Q] places of the hidden states, from 0.
            past: keys and values of earlier steps, [B, kv_heads, K, D].
            mask: over the past's keys and then these.

        Returns:
            Outputs [B, Q, H], not normed, and keys and values for the next step.
        """
        layer = self.layers[0]
        assert isinstance(layer, EagleLayer)
        turns = rope(self.config, positions, self.norm.weight.dtype)
        source = torch.cat([layer.input_layernorm(self.embed(tokens)), layer.hidden_norm(hidden)], dim=-1)
        keys, values = layer.self_attn.keys_values(source, turns)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        attended = layer.self_attn.attend(layer.self_attn.queries(source, turns), keys, values, mask)
        return layer.after(hidden, attended), (keys, values)

    def logits(self, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """[..., V] from outputs [..., H]."""
        return self.cap(self.head(self.norm(hidden), columns))

    def forced(
        self, batch: Batch, anchors: Tensor, previous: Tensor, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        sequences, length = batch.tokens.shape
        device = batch.tokens.device
        rows = torch.arange(sequences, device=device).unsqueeze(-1)
        places = torch.arange(length, device=device).expand(sequences, -1)
        tokens = batch.tokens
        hidden: Tensor = self.fc(batch.features)
        past = None
        steps = []
        for step in range(self.config.gamma):
            # What is shifted in at the end belongs to places beyond the text, which nothing earlier sees.
            tokens = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1)
            mask = masks.build(masks.unrolled(length), sequences, length, (step + 1) * length, device)
            hidden, past = self(tokens, hidden, places + step, past, mask)
            steps.append(self.logits(hidden[rows, anchors - 1], columns))
        return torch.stack(steps, dim=2), None

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
        context = int(lengths.max()) - 1
        places = torch.arange(context, device=tokens.device)
        shown = places < (lengths - 1).unsqueeze(-1)
        causal = places <= places.unsqueeze(-1)
        hidden, past = self(
            tokens[:, 1 : context + 1],
            self.fc(features[:, :context]),
            places.expand(len(tokens), -1),
            mask=causal.expand(len(tokens), 1, context, context),
        )
        last = hidden[rows, lengths - 2].unsqueeze(1)
        drafts, probabilities = [], []
        for step in range(self.config.gamma):
            token, distribution = sample(self.logits(last[:, 0]).float(), temperature, generator)
            drafts.append(token)
            probabilities.append(distribution)
            if step + 1 < self.config.gamma:
                shown = torch.cat([shown, shown.new_ones(len(tokens), 1)], dim=1)
                positions = (lengths - 1 + step).unsqueeze(-1)
                last, past = self(token.unsqueeze(-1), last, positions, past, shown[:, None, None])
        return Proposal(torch.stack(drafts, dim=1), torch.stack(probabilities, dim=1), None)
