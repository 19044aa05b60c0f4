"""Block drafters: DSpark, and DFlash, the same backbone without a serial head (arXiv 2607.05147, section 3).

A block is its anchor and mask tokens, at the anchor's position and the following ones; one pass gives their hidden
states. In DSpark, and in DeepSpec's DFlash, draft k comes from token k of the block, where token 0 is the anchor.
SGLang's DFlash has one mask token per draft and no draft from the anchor. The projected hidden states of the target
replace the drafter's own hidden states as the source of keys and values of the text before the anchor. Tokens of a
block attend to one another in both directions.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from sglang_dspark.drafter import masks
from sglang_dspark.drafter.base import Batch, Drafter, Proposal, sample
from sglang_dspark.drafter.config import MAX_GAMMA, DraftConfig
from sglang_dspark.drafter.heads import SERIAL_HEADS, ConfidenceHead
from sglang_dspark.drafter.layers import Layer, Mask, norm, rope
from sglang_dspark.drafter.shape import DraftShape
from sglang_dspark.errors import InputError

MASKS_ONLY = "DFlashDraftModel"
"""SGLang's DFlash, whose anchors draft nothing."""


def _known_head(name: str) -> str:
    if name not in SERIAL_HEADS:
        raise ValueError(f"use one of {', '.join(SERIAL_HEADS)}")
    return name


SerialHead = Annotated[str, AfterValidator(_known_head)]


class BlockConfig(DraftConfig):
    """DSpark, and DFlash, which has no serial head (``markov_rank`` is 0) and no confidence head.

    ``block_size`` counts a block's tokens: the number of drafts, or one more where the anchor drafts nothing.
    """

    STYLES = {"Qwen3DSparkModel": "qwen3", "Gemma4DSparkModel": "gemma4", MASKS_ONLY: "qwen3"}  # noqa: RUF012

    block_size: int = Field(gt=0, le=MAX_GAMMA + 1)
    mask_token_id: int = Field(ge=0)
    num_anchors: int = Field(default=512, gt=0)
    markov_rank: int = Field(default=0, ge=0)
    markov_head_type: SerialHead = "vanilla"
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = False

    @property
    def masks_only(self) -> bool:
        """Whether only the mask tokens draft."""
        return self.architecture == MASKS_ONLY

    @property
    def gamma(self) -> int:
        return self.block_size - self.masks_only

    @classmethod
    def nested_fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        return content.get("dflash_config") or {}

    def family_content(self) -> dict[str, Any]:
        if not self.masks_only:
            return {}
        injected = {"mask_token_id": self.mask_token_id, "target_layer_ids": list(self.target_layer_ids)}
        return {"dflash_config": injected}

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if not 1 <= self.gamma <= MAX_GAMMA:
            raise InputError(f"block_size: {self.block_size} gives {self.gamma} drafts; 1 to {MAX_GAMMA} are possible")
        if self.mask_token_id >= self.vocab_size:
            raise InputError(f"mask_token_id: {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        if self.masks_only and (self.markov_rank or self.enable_confidence_head):
            raise InputError(f"markov_rank, enable_confidence_head: {MASKS_ONLY} has neither; set both to 0, false")
        if self.confidence_head_with_markov and not self.markov_rank:
            raise InputError("confidence_head_with_markov: true needs a markov_rank above 0")
        return self


class DSparkShape(DraftShape):
    """DSpark: blocks of ``block_size`` drafts, the first of them from the anchor."""

    HAS_CONFIDENCE: ClassVar[bool] = True

    family: Literal["dspark"]
    block_size: int = Field(default=7, gt=0, le=MAX_GAMMA)
    layers: int = Field(default=5, gt=0)
    mask_token_id: int = Field(ge=0)
    markov_rank: int = Field(default=256, gt=0)
    markov_head_type: SerialHead = "vanilla"

    def config(self, backbone: dict[str, Any], gemma: bool, anchors: int) -> BlockConfig:
        return BlockConfig(
            architecture="Gemma4DSparkModel" if gemma else "Qwen3DSparkModel",
            num_hidden_layers=self.layers,
            mask_token_id=self.mask_token_id,
            num_anchors=anchors,
            block_size=self.block_size,
            markov_rank=self.markov_rank,
            markov_head_type=self.markov_head_type,
            enable_confidence_head=True,
            confidence_head_with_markov=True,
            **backbone,
        )


class DFlashShape(DraftShape):
    """DFlash as SGLang serves it: ``drafts`` mask tokens after the anchor, all drafted in parallel."""

    family: Literal["dflash"]
    drafts: int = Field(default=7, gt=0, le=MAX_GAMMA)
    layers: int = Field(default=5, gt=0)
    mask_token_id: int = Field(ge=0)

    def config(self, backbone: dict[str, Any], gemma: bool, anchors: int) -> BlockConfig:
        # SGLang's DFlashDraftModel has Qwen3's layers only; DeepSpec's has Gemma's, and drafts from the anchor.
        architecture, block_size = ("Gemma4DSparkModel", self.drafts) if gemma else (MASKS_ONLY, self.drafts + 1)
        return BlockConfig(
            architecture=architecture,
            block_size=block_size,
            num_hidden_layers=self.layers,
            mask_token_id=self.mask_token_id,
            num_anchors=anchors,
            **backbone,
        )


class BlockDrafter(Drafter[BlockConfig]):
    """Parallel backbone, with a serial head and a confidence head for DSpark."""

    config_class = BlockConfig

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.hidden_norm = norm(config)
        self.markov_head = SERIAL_HEADS[config.markov_head_type](config) if config.markov_rank else None
        self.confidence_head = ConfidenceHead(config) if config.enable_confidence_head else None

    def forward(self, tokens: Tensor, positions: Tensor, features: Tensor, mask: Mask = None) -> Tensor:
        """Compute the hidden states of blocks.

        Args:
            tokens: [B, Q] anchor and mask tokens of each block.
            positions: [B, Q] their positions in the text, from 0.
            features: [B, S, L * H] of the text from its first token.
            mask: Of :func:`masks.packed_blocks`; by default every block token sees all features and block tokens.

        Returns:
            [B, Q, H], normed: the input of the output head and the confidence head.
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
        """Return the tokens [..., block_size] of blocks with anchor tokens [...]."""
        blocks = anchors.new_full((*anchors.shape, self.config.block_size), self.config.mask_token_id)
        blocks[..., 0] = anchors
        return blocks

    def drafting(self, hidden: Tensor) -> Tensor:
        """Return the hidden states [..., gamma, H] that draft, of [..., block_size, H]."""
        return hidden[..., int(self.config.masks_only) :, :]

    def logits(self, hidden: Tensor, previous: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute draft logits [..., gamma, V].

        Args:
            hidden: [..., gamma, H] hidden states that draft.
            previous: [..., gamma] the token before each draft.
            columns: [V] tokens to compute logits for; the whole vocabulary by default.
        """
        base = self.cap(self.head(hidden, columns))
        return base if self.markov_head is None else base + self.markov_head(previous, hidden, columns)

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor | None:
        """Compute raw acceptance logits [...], without temperature scaling; arguments as of :meth:`logits`."""
        if self.confidence_head is None:
            return None
        if self.config.confidence_head_with_markov:
            assert self.markov_head is not None
            hidden = torch.cat([hidden, self.markov_head.markov_w1(previous).to(hidden.dtype)], dim=-1)
        logits: Tensor = self.confidence_head(hidden)
        return logits

    def teacher_forced(
        self, batch: Batch, anchors: Tensor, previous: Tensor, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        size = self.config.block_size
        sequences, length = batch.tokens.shape
        positions = anchors.unsqueeze(-1) + torch.arange(size, device=anchors.device)
        rule = masks.packed_blocks(anchors, length, size)
        queries = anchors.shape[1] * size
        mask = masks.build(rule, sequences, queries, length + queries, anchors.device)
        tokens = self.block(previous[..., 0]).flatten(1)
        hidden = self(tokens, positions.flatten(1), batch.features, mask).view(*positions.shape, -1)
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
        """Draft blocks left to right.

        Args:
            hidden: [B, gamma, H] hidden states that draft.
            anchors: [B] tokens of the anchors.
            temperature: Of the sampling; 0 takes the most likely token.
            generator: Of the samples.
        """
        base = self.cap(self.head(hidden))
        tokens, probabilities = [], []
        previous, state = anchors, None
        for position in range(hidden.shape[1]):
            logits = base[:, position]
            if self.markov_head is not None:
                latent, state = self.markov_head.step(previous, hidden[:, position], state)
                logits = logits + self.markov_head.markov_w2(latent)
            previous, distribution = sample(logits.float(), temperature, generator)
            tokens.append(previous)
            probabilities.append(distribution)
        drafts = torch.stack(tokens, dim=1)
        before = torch.cat([anchors.unsqueeze(1), drafts[:, :-1]], dim=1)
        return Proposal(drafts, torch.stack(probabilities, dim=1), self.confidence(hidden, before))
