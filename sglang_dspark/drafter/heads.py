"""DSpark's serial heads and confidence head (arXiv 2607.05147, section 3.1). Names of modules are those of checkpoints.

A serial head turns the token before a draft, and for some heads the hidden state at its place, into a bias on the
draft's logits. R is its rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sglang_dspark.drafter.config import BlockConfig
from sglang_dspark.drafter.vocabulary import rows


class MarkovHead(nn.Module):
    """The bias ``W2 W1[x]``: that of the token before alone. Base of the other heads."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One draft's bias.

        Args:
            previous: [...] tokens before the drafts.
            hidden: [..., H] at the drafts' places.
            state: [..., R] what the head kept of the drafts before; None at a block's first draft.

        Returns:
            [..., R], of which ``markov_w2`` makes the bias, and the state for the next draft.
        """
        return self.markov_w1(previous), None

    def latents(self, previous: Tensor, hidden: Tensor) -> Tensor:
        """:meth:`step` for whole blocks, [..., gamma, R]."""
        return self.step(previous, hidden, None)[0]

    def forward(self, previous: Tensor, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """Biases of whole blocks, [..., gamma, V], from the tokens before [..., gamma] and [..., gamma, H].

        Args:
            columns: [V] tokens to make biases for; all by default.
        """
        return functional.linear(self.latents(previous, hidden), rows(self.markov_w2.weight, columns))


class GatedHead(MarkovHead):
    """The token's embedding is gated by the hidden state and itself."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.hidden_size + config.markov_rank, config.markov_rank)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        embedded = self.markov_w1(previous)
        return torch.sigmoid(self.gate_proj(torch.cat([hidden, embedded], dim=-1))) * embedded, None


class RnnHead(MarkovHead):
    """A gated recurrent state carries what was drafted in the block so far."""

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
        for place in range(previous.shape[-1]):
            latent, state = self.step(previous[..., place], hidden[..., place, :], state)
            latents.append(latent)
        return torch.stack(latents, dim=-2)


SERIAL_HEADS: dict[str, type[MarkovHead]] = {"vanilla": MarkovHead, "gated": GatedHead, "rnn": RnnHead}


class ConfidenceHead(nn.Module):
    """The logit that a draft is accepted, given that those before it were: linear in ``[h; W1[x]]``, or in ``h``."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.hidden_size + (config.markov_rank if config.confidence_head_with_markov else 0)
        self.proj = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[..., width] to logits [...]."""
        logits: Tensor = self.proj(features).squeeze(-1)
        return logits
