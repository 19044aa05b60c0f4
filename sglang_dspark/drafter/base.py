"""What the families of drafters share: frozen embedding and output head, passes over blocks, drafting, checkpoints.

A block begins after its anchor, a token of the text. It drafts the gamma tokens after the anchor; its place k, from 0,
drafts the token k + 1 after it. A drafter sees the text before the anchor only through the target's hidden states.

Letters in shapes: B sequences, S tokens, N blocks a sequence, H hidden size, L target layers injected, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from sglang_dspark.drafter.config import BlockConfig, DraftConfig, Eagle3Config
from sglang_dspark.drafter.layers import norm
from sglang_dspark.drafter.rows import spread
from sglang_dspark.drafter.vocabulary import Columns, rows
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

WEIGHTS = "model.safetensors"
SHARED = ("embed_tokens.weight", "lm_head.weight")
"""The target's weights, which a checkpoint may leave out."""

Config = TypeVar("Config", BlockConfig, Eagle3Config)


class Batch(NamedTuple):
    """Texts with what the target makes of them. Padding is on the right."""

    tokens: Tensor
    """[B, S]."""

    answer: Tensor
    """[B, S] bool: the tokens that the target wrote; blocks lie within them."""

    features: Tensor
    """[B, S, L * H] hidden states to inject."""

    last: Tensor
    """[B, S, H] what the target's output head reads."""


class Forced(NamedTuple):
    """What a drafter says of N blocks of every text, given the true tokens before each draft.

    V is all of the vocabulary, or the columns that were asked for.
    """

    draft_logits: Tensor
    """[B * N, gamma, V] float32."""

    target_logits: Tensor
    """[B * N, gamma, V] float32, of the target at the same places."""

    confidence_logits: Tensor | None
    """[B * N, gamma] float32; None without a confidence head."""

    labels: Tensor
    """[B * N, gamma] the text's tokens, as places in V."""

    known: Tensor
    """[B * N, gamma] whether the answer goes on to that place; other places count for nothing."""

    def distance(self) -> Tensor:
        """[B * N, gamma] L1 distances between the drafter's distribution and the target's."""
        return (self.draft_logits.softmax(-1) - self.target_logits.softmax(-1)).abs().sum(-1)

    def acceptance(self) -> Tensor:
        """[B * N, gamma] chances that a draft is accepted under rejection sampling at temperature 1."""
        return accepted(self.distance())


def accepted(distance: Tensor) -> Tensor:
    """The chance that a draft is accepted, from the L1 distance of the distributions."""
    return (1.0 - 0.5 * distance).clamp(0.0, 1.0)


class Proposal(NamedTuple):
    """One drafted block for each of B texts."""

    tokens: Tensor
    """[B, gamma]."""

    probabilities: Tensor
    """[B, gamma, V] that they were drawn from; one-hot at temperature 0."""

    confidence_logits: Tensor | None
    """[B, gamma], raw; None without a confidence head."""


class Drafter(nn.Module, ABC, Generic[Config]):
    """Base of the families. Embedding and output head are the target's, and frozen."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.fc = nn.Linear(len(config.target_layer_ids) * config.hidden_size, config.hidden_size, bias=False)
        self.norm = norm(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.embed_tokens.requires_grad_(False)
        self.lm_head.requires_grad_(False)
        self.shared_absent = False

    @abstractmethod
    def forced(
        self, batch: Batch, anchors: Tensor, previous: Tensor, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of blocks within texts, every draft given the true tokens before it.

        Args:
            anchors: [B, N] places of the anchors, from 1.
            previous: [B, N, gamma] the token before each draft.
            columns: [V] tokens whose logits to make; all by default.

        Returns:
            Draft logits [B, N, gamma, V], and confidence logits [B, N, gamma] or None.
        """

    @abstractmethod
    def propose(
        self,
        tokens: Tensor,
        lengths: Tensor,
        features: Tensor,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Proposal:
        """Drafts the block after each text.

        Args:
            tokens: [B, S] texts, the last token of each its anchor.
            lengths: [B] tokens of each, at least 2.
            features: [B, at least S - 1, L * H] of the texts from their first tokens on.
            temperature: of the sampling; 0 takes the likeliest token.
            generator: of the samples.
        """

    def embed(self, tokens: Tensor) -> Tensor:
        """[...] to [..., H]; Gemma 4 scales its embeddings."""
        embedded: Tensor = self.embed_tokens(tokens)
        return embedded * math.sqrt(self.config.hidden_size) if self.config.style == "gemma4" else embedded

    def head(self, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """Logits [..., V] from hidden states [..., H], the target's own last ones too."""
        return functional.linear(hidden, rows(self.lm_head.weight, columns))

    def cap(self, logits: Tensor) -> Tensor:
        """Gemma's soft bound on logits, where the target has one."""
        bound = self.config.final_logit_softcapping
        return logits if bound is None else torch.tanh(logits / bound) * bound

    def score(self, batch: Batch, anchors: Tensor, kept: Tensor, columns: Columns | None = None) -> Forced:
        """Passes over blocks at ``anchors`` [B, N]; those not ``kept`` [B, N] count for nothing.

        Args:
            columns: stand for the whole vocabulary; they include all tokens of the texts.
        """
        places = anchors.unsqueeze(-1) + torch.arange(self.config.gamma, device=anchors.device)
        inside = places + 1 < batch.tokens.shape[1]
        safe = places.clamp(max=batch.tokens.shape[1] - 2)
        texts = torch.arange(len(anchors), device=anchors.device).view(-1, 1, 1)
        known = (inside & batch.answer[texts, safe + 1] & kept.unsqueeze(-1)).long().cumprod(-1).bool()
        named = None if columns is None else columns.tokens
        draft_logits, confidence = self.forced(batch, anchors, batch.tokens[texts, safe], named)
        with torch.no_grad():
            target_logits = self.cap(self.head(batch.last[texts, safe], named))
        draft_logits, target_logits = draft_logits.float(), target_logits.float()
        labels = batch.tokens[texts, safe + 1]
        if columns is not None:
            draft_logits, target_logits = draft_logits + columns.weight, target_logits + columns.weight
            labels = torch.searchsorted(columns.tokens, labels)
        return Forced(
            draft_logits.flatten(0, 1),
            target_logits.flatten(0, 1),
            None if confidence is None else confidence.flatten(0, 1).float(),
            labels.flatten(0, 1),
            known.flatten(0, 1),
        )

    def initialize(self, embedding: Tensor, head: Tensor) -> None:
        """Random weights, from torch's global generator, and the target's [V, H] embedding and output head."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.adopt(embedding, head)

    def adopt(self, embedding: Tensor, head: Tensor) -> None:
        """Takes the target's [V, H] embedding and output head."""
        with torch.no_grad():
            self.embed_tokens.weight.copy_(embedding)
            self.lm_head.weight.copy_(head)
        self.shared_absent = False

    def read_weights(self, folder: Path) -> None:
        """Reads ``*.safetensors`` of a checkpoint.

        Raises:
            InputError: They are absent, damaged, or those of another model than ``config.json`` says.
        """
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{folder}: holds no *.safetensors; give the folder of a checkpoint")
        weights: dict[str, Tensor] = {}
        fit: Any
        try:
            for file in files:
                weights |= load_file(file)
            fit = self.load_state_dict(spread(weights, self.config.vocab_size), strict=False)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(f"{folder}: weights do not fit config.json ({' '.join(str(error).split())})") from error
        absent = set(fit.missing_keys) & set(SHARED)
        if fit.unexpected_keys or set(fit.missing_keys) - absent or len(absent) == 1:
            names = sorted({*fit.unexpected_keys, *fit.missing_keys})
            raise InputError(f"{folder}: weights do not fit config.json (missing or unknown: {', '.join(names[:4])})")
        self.shared_absent = bool(absent)

    def own_weights(self) -> dict[str, Tensor]:
        """All but the target's, in bfloat16 on the CPU."""
        return _half({name: tensor for name, tensor in self.state_dict().items() if name not in SHARED})

    def save(self, folder: Path, shared: bool = True) -> None:
        """Writes the checkpoint, its weights in bfloat16.

        Args:
            shared: with the target's embedding and output head, as DeepSpec does; SGLang does without.
        """
        self.config.save(folder)
        weights = self.own_weights() if not shared else _half(self.state_dict())
        write_atomically(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))


def _half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}


def distribution(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities of logits [..., V]; one-hot of the likeliest token at temperature 0."""
    if temperature == 0.0:
        return functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return torch.softmax(logits / temperature, dim=-1)


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Tokens [B] drawn from logits [B, V], and the probabilities [B, V]."""
    probabilities = distribution(logits, temperature)
    if temperature == 0.0:
        return logits.argmax(-1), probabilities
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1), probabilities


def check_layers(config: DraftConfig, layers: int, source: str) -> None:
    """Raises InputError unless a target of that many layers is the one that the draft was made for."""
    if config.num_target_layers != layers:
        raise InputError(
            f"{source}: num_target_layers: {config.num_target_layers} is not {layers}, the target's; give the target"
            " that the draft was trained for"
        )
