"""The base of drafters: frozen embedding and output head, training passes, drafting, and checkpoints.

A block starts after its anchor, a token of the text, and drafts the gamma tokens that follow it: position k of the
block, from 0, drafts the token k + 1 after the anchor. A drafter sees the text before the anchor only through the
target's hidden states.

Letters in shapes: B sequences, S tokens, N blocks per sequence, H hidden size, L injected target layers, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.drafter.layers import norm
from sglang_dspark.drafter.sparse_markov import densify
from sglang_dspark.drafter.vocabulary import Columns, rows
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

WEIGHTS = "model.safetensors"
SHARED = ("embed_tokens.weight", "lm_head.weight")
"""The target's weights, which a checkpoint may leave out."""

Config = TypeVar("Config", bound=DraftConfig)


class Batch(NamedTuple):
    """Texts with the target's hidden states, padded on the right."""

    tokens: Tensor
    """[B, S]."""

    answer: Tensor
    """[B, S] bool, the tokens that the target wrote; blocks lie within them."""

    features: Tensor
    """[B, S, L * H] hidden states to inject."""

    last: Tensor
    """[B, S, H] inputs of the target's output head."""


class TeacherForced(NamedTuple):
    """Predictions for N blocks of every text, given the true tokens before each draft.

    V is the vocabulary, or the number of columns of it that were requested.
    """

    draft_logits: Tensor
    """[B * N, gamma, V] float32."""

    target_logits: Tensor
    """[B * N, gamma, V] float32, the target's at the same positions."""

    confidence_logits: Tensor | None
    """[B * N, gamma] float32; None without a confidence head."""

    labels: Tensor
    """[B * N, gamma] the text's tokens, as indices into V."""

    known: Tensor
    """[B * N, gamma] bool, whether the answer extends to that position; the others do not count."""

    def distance(self) -> Tensor:
        """Compute the L1 distances [B * N, gamma] between the drafter's and the target's distributions."""
        return (self.draft_logits.softmax(-1) - self.target_logits.softmax(-1)).abs().sum(-1)

    def acceptance(self) -> Tensor:
        """Compute the acceptance probabilities [B * N, gamma] under rejection sampling at temperature 1."""
        return accepted(self.distance())


def accepted(distance: Tensor) -> Tensor:
    """Convert L1 distances of distributions to acceptance probabilities."""
    return (1.0 - 0.5 * distance).clamp(0.0, 1.0)


class Proposal(NamedTuple):
    """One drafted block for each of B texts."""

    tokens: Tensor
    """[B, gamma]."""

    probabilities: Tensor
    """[B, gamma, V], the distributions that the tokens were drawn from; one-hot at temperature 0."""

    confidence_logits: Tensor | None
    """[B, gamma], raw; None without a confidence head."""


class Drafter(nn.Module, ABC, Generic[Config]):
    """Base of the families. Embedding and output head are the target's, and frozen."""

    config_class: ClassVar[type[DraftConfig]]

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
    def teacher_forced(
        self, batch: Batch, anchors: Tensor, previous: Tensor, columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the logits of blocks within texts, each draft given the true tokens before it.

        Args:
            anchors: [B, N] positions of the anchors, at least 1.
            previous: [B, N, gamma] the token before each draft.
            columns: [V] tokens to compute logits for; the whole vocabulary by default.

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
        """Draft the block after each text.

        Args:
            tokens: [B, S] texts; the last token of each is its anchor.
            lengths: [B] tokens of each text, at least 2.
            features: [B, at least S - 1, L * H] of the texts from their first tokens.
            temperature: Of the sampling; 0 takes the most likely token.
            generator: Of the samples.
        """

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens [...] as [..., H], scaled as Gemma 4 does."""
        embedded: Tensor = self.embed_tokens(tokens)
        return embedded * math.sqrt(self.config.hidden_size) if self.config.style == "gemma4" else embedded

    def head(self, hidden: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute logits [..., V] from final hidden states [..., H] of the drafter or the target."""
        return functional.linear(hidden, rows(self.lm_head.weight, columns))

    def cap(self, logits: Tensor) -> Tensor:
        """Apply Gemma's soft bound on logits where the target has one."""
        bound = self.config.final_logit_softcapping
        return logits if bound is None else torch.tanh(logits / bound) * bound

    def score(self, batch: Batch, anchors: Tensor, kept: Tensor, columns: Columns | None = None) -> TeacherForced:
        """Predict the blocks at given anchors, and the target's logits for the same tokens.

        Args:
            anchors: [B, N] positions.
            kept: [B, N] bool; blocks that are not kept do not count.
            columns: A part of the vocabulary that represents all of it and includes all tokens of the texts.
        """
        positions = anchors.unsqueeze(-1) + torch.arange(self.config.gamma, device=anchors.device)
        inside = positions + 1 < batch.tokens.shape[1]
        safe = positions.clamp(max=batch.tokens.shape[1] - 2)
        texts = torch.arange(len(anchors), device=anchors.device).view(-1, 1, 1)
        known = (inside & batch.answer[texts, safe + 1] & kept.unsqueeze(-1)).long().cumprod(-1).bool()
        tokens = None if columns is None else columns.tokens
        draft_logits, confidence = self.teacher_forced(batch, anchors, batch.tokens[texts, safe], tokens)
        with torch.no_grad():
            target_logits = self.cap(self.head(batch.last[texts, safe], tokens))
        draft_logits, target_logits = draft_logits.float(), target_logits.float()
        labels = batch.tokens[texts, safe + 1]
        if columns is not None:
            draft_logits, target_logits = draft_logits + columns.weight, target_logits + columns.weight
            labels = torch.searchsorted(columns.tokens, labels)
        return TeacherForced(
            draft_logits.flatten(0, 1),
            target_logits.flatten(0, 1),
            None if confidence is None else confidence.flatten(0, 1).float(),
            labels.flatten(0, 1),
            known.flatten(0, 1),
        )

    def initialize(self, embedding: Tensor, head: Tensor) -> None:
        """Draw random weights from torch's global generator and adopt the target's embedding and head, [V, H] each."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.adopt(embedding, head)

    def adopt(self, embedding: Tensor, head: Tensor) -> None:
        """Copy the target's embedding and output head, [V, H] each."""
        with torch.no_grad():
            self.embed_tokens.weight.copy_(embedding)
            self.lm_head.weight.copy_(head)
        self.shared_absent = False

    def read_weights(self, folder: Path) -> None:
        """Read ``*.safetensors`` of a checkpoint.

        Raises:
            InputError: They are absent, damaged, or do not fit ``config.json``.
        """
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{folder}: holds no *.safetensors; give the folder of a checkpoint")
        weights: dict[str, Tensor] = {}
        match: Any
        try:
            for file in files:
                weights |= load_file(file)
            match = self.load_state_dict(densify(weights, self.config.vocab_size), strict=False)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(f"{folder}: weights do not fit config.json ({' '.join(str(error).split())})") from error
        absent = set(match.missing_keys) & set(SHARED)
        if match.unexpected_keys or set(match.missing_keys) - absent or len(absent) == 1:
            names = sorted({*match.unexpected_keys, *match.missing_keys})
            raise InputError(f"{folder}: weights do not fit config.json (missing or unknown: {', '.join(names[:4])})")
        self.shared_absent = bool(absent)

    def own_weights(self) -> dict[str, Tensor]:
        """Return all weights except the target's, in bfloat16 on the CPU."""
        return _half({name: tensor for name, tensor in self.state_dict().items() if name not in SHARED})

    def save(self, folder: Path, shared: bool = True) -> None:
        """Write the checkpoint with its weights in bfloat16.

        Args:
            shared: Include the target's embedding and output head, as DeepSpec does; SGLang does not need them.
        """
        self.config.save(folder)
        weights = self.own_weights() if not shared else _half(self.state_dict())
        write_atomically(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))


def _half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}


def distribution(logits: Tensor, temperature: float) -> Tensor:
    """Convert logits [..., V] to probabilities; one-hot of the most likely token at temperature 0."""
    if temperature == 0.0:
        return functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return torch.softmax(logits / temperature, dim=-1)


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw tokens [B] from logits [B, V]; return them with the probabilities [B, V]."""
    probabilities = distribution(logits, temperature)
    if temperature == 0.0:
        return logits.argmax(-1), probabilities
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1), probabilities
