"""Markov heads, which compute from the previous token the low-rank correction of the draft logits.

A head's *latent* at position k is what ``W2`` multiplies: ``B_k = latent_k W2``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import torch

from dspark_kernels import checks

Kind = Literal["vanilla", "gated", "rnn"]
# Blocks of columns in the joint projection.
CHUNKS = {"vanilla": 0, "gated": 1, "rnn": 3}


# No token, among candidates: all bits except the sign.
NO_TOKEN: Final = 2**31 - 1


class Shard(NamedTuple):
    """A rank's range of the vocabulary under tensor parallelism.

    Attributes:
        start, end: Its tokens are ``start`` to ``end - 1``; ``start`` is a multiple of 4.
        gather: Collects float32 [F, R] of every rank as [ranks, F, R]; it may turn 0 into -0.
    """

    start: int
    end: int
    gather: Callable[[torch.Tensor], torch.Tensor]

    @property
    def columns(self) -> slice:
        return slice(self.start, self.end)

    def check(self, name: str, width: int) -> None:
        """Raise ValueError unless it has ``width`` tokens and starts at a multiple of 4."""
        if self.start % 4 or self.start < 0 or self.end - self.start != width:
            raise ValueError(
                f"{name}: tokens {self.start} to {self.end - 1}, expected {width} of them from a multiple of 4 on: a"
                " Philox counter serves four tokens"
            )


class MarkovHead(NamedTuple):
    """Weights of a Markov head in the layout of SGLang and DeepSpec (``sglang.srt.models.dspark``).

    Attributes:
        kind: ``vanilla``: latent is ``W1[x]``. ``gated``: ``sigmoid(G [h; W1[x]] + b) * W1[x]``. ``rnn``: a gated
            state s: ``[g; c; o] = J [s; W1[x]; h] + b``, ``s' = sigmoid(g) s + (1 - sigmoid(g)) tanh(c)``, latent
            ``tanh(o)``.
        w1: [V or more, K], embedding of the previous token.
        w2: [V, K], or the rows of a shard of the vocabulary. Has the dtype of ``w1``; a vanilla head may have another,
            to which the rows of ``w1`` are cast.
        joint: ``G`` [K, H + K] or ``J`` [3 K, 2 K + H]; None for vanilla.
        bias: [K] or [3 K]; None for vanilla.
    """

    kind: Kind
    w1: torch.Tensor
    w2: torch.Tensor
    joint: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return int(self.w1.shape[1])

    def check(self) -> None:
        """Raise ValueError unless the weights fit together."""
        checks.tensor("w1", self.w1, checks.LOGITS, (None, None), self.w1)
        checks.between("w1: rank", self.rank, 1, checks.MAX_RANK)
        dtype = checks.LOGITS if self.kind == "vanilla" else self.w1.dtype
        checks.tensor("w2", self.w2, dtype, (None, self.rank), self.w1)
        checks.between("w2: rows", self.w2.shape[0], 1, checks.MAX_VOCAB)
        if self.kind not in CHUNKS:
            raise ValueError(f"kind: {self.kind}, expected one of {', '.join(CHUNKS)}")
        if (chunks := CHUNKS[self.kind]) > 0:
            if self.joint is None or self.bias is None:
                raise ValueError(f"joint, bias: missing, expected the projection of a {self.kind} head")
            checks.tensor("joint", self.joint, self.w1.dtype, (chunks * self.rank, None), self.w1)
            checks.tensor("bias", self.bias, self.w1.dtype, (chunks * self.rank,), self.w1)

    def split(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Columns of the joint projection for the state (none if gated), the embedding and the hidden state."""
        assert self.joint is not None
        rank = self.rank
        if self.kind == "gated":
            hidden = self.joint.shape[1] - rank
            return self.joint[:, :0], self.joint[:, hidden:], self.joint[:, :hidden]
        return self.joint[:, :rank], self.joint[:, rank : 2 * rank], self.joint[:, 2 * rank :]

    def from_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        """Contribution of hidden states and bias to the joint projection, float32 [R, gamma, chunks * K].

        It depends on no token, so one matrix product computes it for the whole block.
        """
        assert self.bias is not None
        weight = self.split()[2]
        return torch.nn.functional.linear(hidden.to(weight.dtype), weight, self.bias).float().contiguous()


def reference_latent(
    head: MarkovHead, tokens: torch.Tensor, from_hidden: torch.Tensor | None, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """PyTorch reference: the latent after ``tokens`` int64 [R] and the next state, both float32 [R, K].

    Args:
        from_hidden: float32 [R, chunks * K], :meth:`MarkovHead.from_hidden` at this position.
        state: float32 [R, K]; None for zeros and for heads without a state.
    """
    embedding = head.w1[tokens].float()
    if head.kind == "vanilla":
        return _rounded(embedding, head), None
    assert from_hidden is not None
    of_state, of_embedding, _ = head.split()
    joint = from_hidden + embedding @ of_embedding.float().T
    if head.kind == "gated":
        return _rounded(torch.sigmoid(joint) * embedding, head), None
    if state is not None:
        joint = joint + _rounded(state, head) @ of_state.float().T
    gate, candidate, output = joint.chunk(3, dim=1)
    gate = torch.sigmoid(gate)
    kept = gate * state if state is not None else torch.zeros_like(gate)
    return _rounded(torch.tanh(output), head), kept + (1.0 - gate) * torch.tanh(candidate)


def _rounded(vector: torch.Tensor, head: MarkovHead) -> torch.Tensor:
    """Round to the dtype of the weights, as the matrix unit does."""
    return vector.to(head.w2.dtype).float()
