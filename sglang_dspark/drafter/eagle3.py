"""Eagle3 (arXiv 2503.01840): one autoregressive layer over the target's fused hidden states.

At position i the layer reads the hidden state of token i (the target's, fused, or its own output of the previous step)
and the embedding of token i + 1, and drafts token i + 2. Training unrolls drafting: step k at index i stands for
position i + k, reads the layer's output of step k - 1, and attends to the target's states up to i and to the layer's
own states after it.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sglang_dspark.drafter import masks
from sglang_dspark.drafter.base import Batch, Drafter, Proposal, sample
from sglang_dspark.drafter.config import MAX_GAMMA, DraftConfig
from sglang_dspark.drafter.layers import Layer, Mask, norm, rope
from sglang_dspark.drafter.shape import DraftShape
from sglang_dspark.errors import InputError


class Eagle3Config(DraftConfig):
    """One layer, unrolled ``ttt_length`` times in training; step k has weight ``step_loss_decay`` ** k in the loss.

    ``LlamaForCausalLMEagle3`` is what SGLang serves; it does not norm queries and keys. The others are DeepSpec's.
    """

    STYLES = {  # noqa: RUF012
        "Qwen3Eagle3Model": "qwen3",
        "Gemma4Eagle3Model": "gemma4",
        "LlamaForCausalLMEagle3": "llama",
    }

    ttt_length: int = Field(default=7, gt=0, le=MAX_GAMMA)
    step_loss_decay: float = Field(default=0.8, gt=0.0, le=1.0)

    @property
    def gamma(self) -> int:
        return self.ttt_length

    @classmethod
    def nested_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        layers = (content.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
        return {} if layers is None else {"target_layer_ids": layers}

    def family_content(self) -> dict[str, Any]:
        layers = list(self.target_layer_ids)
        return {
            "draft_num_hidden_layers": self.num_hidden_layers,
            "draft_vocab_size": self.vocab_size,
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": layers, "use_aux_hidden_state": True},
            "num_aux_hidden_states": len(layers),
        }

    @model_validator(mode="after")
    def _one_layer(self) -> Self:
        if self.num_hidden_layers != 1:
            raise InputError(f"num_hidden_layers: {self.num_hidden_layers} is not implemented for Eagle3; use 1")
        return self


class Eagle3Shape(DraftShape):
    """Eagle3, unrolled ``ttt_length`` times; ``qk_norm`` selects DeepSpec's layer, which SGLang does not serve."""

    family: Literal["eagle3"]
    ttt_length: int = Field(default=7, gt=0, le=MAX_GAMMA)
    qk_norm: bool = False

    def config(self, backbone: dict[str, Any], gemma: bool, anchors: int) -> Eagle3Config:
        name = "Gemma4Eagle3Model" if gemma else "Qwen3Eagle3Model" if self.qk_norm else "LlamaForCausalLMEagle3"
        return Eagle3Config(architecture=name, num_hidden_layers=1, ttt_length=self.ttt_length, **backbone)


class EagleLayer(Layer):
    """A layer that attends over the concatenation of embedding and hidden state."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config, width=2 * config.hidden_size)
        self.hidden_norm = norm(config)


class Eagle3Drafter(Drafter[Eagle3Config]):
    """The layer, the norm before the output head, and the projection that fuses the target's states."""

    config_class = Eagle3Config

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
        """Run one step.

        Args:
            tokens: [B, Q], each the successor of the token of its hidden state.
            hidden: [B, Q, H], fused states of the target or outputs of the previous step.
            positions: [B, Q] of the hidden states, from 0.
            past: Keys and values of earlier steps, [B, kv_heads, K, D].
            mask: Over the keys of ``past`` followed by those of this step.

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
        """Compute draft logits [..., V] from outputs [..., H]."""
        return self.cap(self.head(self.norm(hidden), columns))

    def teacher_forced(
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
            # The zeros shifted in at the end are positions beyond the text, which no earlier position attends to.
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
