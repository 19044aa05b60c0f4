"""DSpark's serial heads and confidence head (arXiv 2607.05147, section 3.1). Module names are those of checkpoints.

A serial head turns the token before a draft, and in some heads the hidden state at its position, into a bias on the
draft's logits. R is its rank. A new serial head is a class here and a line in ``SERIAL_HEADS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from sglang_dspark.drafter.vocabulary import rows

if TYPE_CHECKING:
    from sglang_dspark.drafter.block import BlockConfig


class MarkovHead(nn.Module):
    """The bias ``W2 W1[x]`` of the previous token x alone, and the base of the other heads."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the latent of one draft's bias.

        Args:
            previous: [...] tokens before the drafts.
            hidden: [..., H] hidden states at the drafts' positions.
            state: [..., R] what the head keeps of the earlier drafts of the block; None at the first.

        Returns:
            [..., R], from which ``markov_w2`` makes the bias, and the state for the next draft.
        """
        return self.markov_w1(previous), None

    def latents(self, previous: Tensor, hidden: Tensor) -> Tensor:
        """Apply :meth:`step` to whole blocks, [..., gamma, R]."""
        return self.step(previous, hidden, None)[0]

    def forward(self, previous: Tensor, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute the biases [..., gamma, V] of whole blocks.

        Args:
            previous: [..., gamma] tokens before the drafts.
            hidden: [..., gamma, H] hidden states at the drafts' positions.
            columns: [V] tokens to compute biases for; the whole vocabulary by default.
        """
        return functional.linear(self.latents(previous, hidden), rows(self.markov_w2.weight, columns))


class GatedHead(MarkovHead):
    """A Markov head whose token embedding is gated by the hidden state and the embedding."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size + config.markov_rank, config.markov_rank)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        embedded = self.markov_w1(previous)
        return torch.sigmoid(self.gate_proj(torch.cat([hidden, embedded], dim=-1))) * embedded, None


class RnnHead(MarkovHead):
    """A Markov head with a gated recurrent state over the drafts of a block."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.joint_proj = nn.Linear(2 * config.markov_rank + config.hidden_size, 3 * config.markov_rank)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        embedded = self.markov_w1(previous)
        kept = torch.zeros_like(embedded) if state is None else state
        gate, candidate, output = self.joint_proj(torch.cat([kept, embedded, hidden], dim=-1)).chunk(3, dim=-1)
        gate = torch.sigmoid(gate)
        return torch.tanh(output), gate * kept + (1.0 - gate) * torch.tanh(candidate)

    def latents(self, previous: Tensor, hidden: Tensor) -> Tensor:
        state: Tensor | None = None
        latents = []
        for position in range(previous.shape[-1]):
            latent, state = self.step(previous[..., position], hidden[..., position, :], state)
            latents.append(latent)
        return torch.stack(latents, dim=-2)


SERIAL_HEADS: dict[str, type[MarkovHead]] = {"vanilla": MarkovHead, "gated": GatedHead, "rnn": RnnHead}


class ConfidenceHead(nn.Module):
    """The logit that a draft is accepted given that its prefix was, linear in ``[h; W1[x]]`` or in ``h``."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.hidden_size + (config.markov_rank if config.confidence_head_with_markov else 0)
        self.proj = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [..., width] to logits [...]."""
        logits: Tensor = self.proj(features).squeeze(-1)
        return logits
