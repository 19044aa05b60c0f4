"""The tensors that drafting and acceptance read, as one argument each, and their checks."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch

from dspark_kernels import checks
from dspark_kernels.heads import MarkovHead, Shard


class DraftBatch(NamedTuple):
    """Inputs of a draft block of gamma tokens for each of R requests.

    Request, anchor position, seed, step and token together identify one random draw, so a request draws the same
    numbers in any batch.

    Attributes:
        head: The Markov head; where the vocabulary is sharded its ``w2`` has the rows of the shard.
        base_logits: [R, gamma, V] ``U``, rows of any stride; V is the width of the shard where there is one.
        anchors: int64 [R], the tokens before the blocks.
        hidden: [R, gamma, H], hidden states for gated and rnn heads; ignored for vanilla heads.
        temperatures: float32 [R]; 0 means argmax.
        requests: int64 [R], request ids.
        positions: int64 [R], positions of the anchors.
        seed: Of all draws.
    """

    head: MarkovHead
    base_logits: torch.Tensor
    anchors: torch.Tensor
    hidden: torch.Tensor | None
    temperatures: torch.Tensor
    requests: torch.Tensor
    positions: torch.Tensor
    seed: int

    def at(self, rows: slice | torch.Tensor) -> Self:
        """Select requests."""
        hidden = None if self.hidden is None else self.hidden[rows]
        own = {name: getattr(self, name)[rows] for name in ("base_logits", "anchors", "temperatures", "requests")}
        return self._replace(hidden=hidden, positions=self.positions[rows], **own)

    def from_hidden(self) -> torch.Tensor | None:
        """The part of the head's joint projection that depends on no token; None for vanilla heads."""
        return None if self.hidden is None or self.head.kind == "vanilla" else self.head.from_hidden(self.hidden)

    def check(self) -> None:
        """Raise ValueError, naming the tensor, unless all tensors fit together."""
        head, logits = self.head, self.base_logits
        head.check()
        checks.tensor("base_logits", logits, checks.LOGITS, (None, None, head.w2.shape[0]), head.w1, rows_only=True)
        rows, gamma, _ = logits.shape
        checks.between("base_logits: rows", rows, 1, checks.MAX_ROWS)
        checks.between("base_logits: gamma", gamma, 1, checks.MAX_GAMMA)
        checks.tensor("temperatures", self.temperatures, torch.float32, (rows,), logits)
        for name in ("anchors", "requests", "positions"):
            checks.tensor(name, getattr(self, name), torch.int64, (rows,), logits)
        if head.kind != "vanilla":
            if self.hidden is None:
                raise ValueError(f"hidden: missing, expected the hidden states of a {head.kind} head")
            width = head.split()[2].shape[1]
            checks.tensor("hidden", self.hidden, checks.LOGITS, (rows, gamma, width), logits, rows_only=True)


class KeptProposal(NamedTuple):
    """The part of a draft block from which acceptance recomputes the proposal distribution.

    Attributes:
        logits: [R, gamma, V] base logits, or corrected logits where ``head`` is None; rows of any stride.
        log_sums: float32 [R, gamma], log-sum-exp of the scaled corrected logits.
        log_probs: float32 [R, gamma], of the drafts.
        temperatures: float32 [R] of the draft; 0 means argmax.
        head: Corrects the base logits; None where ``logits`` are corrected already.
        latents: [R, gamma, K], for gated and rnn heads.
        anchors: int64 [R], the tokens before the block.
        shard: The shard of the vocabulary that ``logits`` and ``head.w2`` cover; every rank has all target logits.
    """

    logits: torch.Tensor
    log_sums: torch.Tensor
    log_probs: torch.Tensor
    temperatures: torch.Tensor
    head: MarkovHead | None
    latents: torch.Tensor | None
    anchors: torch.Tensor
    shard: Shard | None = None

    def check(self, like: torch.Tensor, count: int, gamma: int) -> None:
        """Raise ValueError, naming the tensor, unless it fits target logits ``like`` and drafts [count, gamma]."""
        checks.tensor("proposal.logits", self.logits, checks.LOGITS, (count, gamma, None), like, rows_only=True)
        width = self.logits.shape[2]
        if self.shard is not None:
            self.shard.check("proposal.shard", width)
        end = width if self.shard is None else self.shard.end
        checks.between("proposal: tokens", end, 1, like.shape[1])
        for name, value in (("log_sums", self.log_sums), ("log_probs", self.log_probs)):
            checks.tensor(f"proposal.{name}", value, torch.float32, (count, gamma), like)
        checks.tensor("proposal.temperatures", self.temperatures, torch.float32, (count,), like)
        checks.tensor("proposal.anchors", self.anchors, torch.int64, (count,), like)
        if (head := self.head) is not None:
            head.check()
            checks.tensor("proposal.head.w2", head.w2, checks.LOGITS, (width, head.rank), like)
            if head.kind != "vanilla":
                if self.latents is None:
                    raise ValueError(f"proposal.latents: missing, expected those of a {head.kind} head")
                checks.tensor("proposal.latents", self.latents, head.w2.dtype, (count, gamma, head.rank), like)


class VerifiedBatch(NamedTuple):
    """Inputs of acceptance for R requests whose drafts the target has verified.

    Attributes:
        target_logits: [N, V], after all adjustments; rows of any stride.
        starts: int64 [R], the row of each request's anchor; the rows of its drafts follow.
        lengths: int32 [R], drafts verified, 0..gamma.
        drafts: int64 [R, gamma].
        proposal: The distribution that the drafts were drawn from; None where all drafts are argmax.
        temperatures: float32 [R], of the target; 0 means argmax.
        requests: int64 [R], request ids, which identify the draws.
        positions: int64 [R], positions of the anchors.
        seed: Of all draws.
        top_ks, top_ps: int32 (1 or more) and float32 [R], top-k first; None where no request has one. Tokens that tie
            with the last kept token are kept.
    """

    target_logits: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    drafts: torch.Tensor
    proposal: KeptProposal | None
    temperatures: torch.Tensor
    requests: torch.Tensor
    positions: torch.Tensor
    seed: int
    top_ks: torch.Tensor | None = None
    top_ps: torch.Tensor | None = None

    def check(self) -> None:
        """Raise ValueError, naming the tensor, unless all tensors fit together."""
        logits = self.target_logits
        checks.tensor("target_logits", logits, checks.LOGITS, (None, None), logits, rows_only=True)
        checks.between("target_logits: columns", logits.shape[1], 1, checks.MAX_VOCAB)
        checks.tensor("drafts", self.drafts, torch.int64, (None, None), logits)
        count, gamma = self.drafts.shape
        checks.between("drafts: rows", count, 1, checks.MAX_ROWS)
        checks.between("drafts: gamma", gamma, 1, checks.MAX_GAMMA)
        for name, value, dtype in (
            ("starts", self.starts, torch.int64),
            ("lengths", self.lengths, torch.int32),
            ("temperatures", self.temperatures, torch.float32),
            ("requests", self.requests, torch.int64),
            ("positions", self.positions, torch.int64),
            ("top_ks", self.top_ks, torch.int32),
            ("top_ps", self.top_ps, torch.float32),
        ):
            if value is not None:
                checks.tensor(name, value, dtype, (count,), logits)
        if self.proposal is not None:
            self.proposal.check(logits, count, gamma)
