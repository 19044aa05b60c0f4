"""The shapes and dtypes with which one server launches the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from dspark_kernels import heads

# Qwen3-8B with a DSpark draft of rank 256.
VOCAB, RANK, GAMMA, HIDDEN = 151_936, 256, 7, 4096


class ServedShapes(NamedTuple):
    """Shapes and dtypes of the tensors that a server passes to the kernels; they determine the compiled code.

    Attributes:
        kind: Of the Markov head.
        vocab: Vocabulary of the model, over all ranks.
        rank, hidden, gamma: K, H and the drafts of a block.
        requests: Maximum number of running requests.
        logits, w1, w2, kept, target: Dtypes of base logits, the head's matrices, kept logits and target logits.
        bias, markov: Whether the confidence head has a bias, and whether it reads the embedding of the previous token.
        greedy: Whether drafts are argmax at any temperature.
        stride, target_stride: Row strides of base logits and of target logits where SGLang pads the vocabulary and
            passes a view without the padding; 0 for contiguous rows.
        shard: The shard of the vocabulary that base logits cover; None for all of it.
    """

    kind: heads.Kind = "vanilla"
    vocab: int = VOCAB
    rank: int = RANK
    hidden: int = HIDDEN
    gamma: int = GAMMA
    requests: int = 1024
    logits: torch.dtype = torch.bfloat16
    w1: torch.dtype = torch.bfloat16
    w2: torch.dtype = torch.bfloat16
    kept: torch.dtype = torch.bfloat16
    target: torch.dtype = torch.float32
    bias: bool = True
    markov: bool = True
    greedy: bool = False
    stride: int = 0
    target_stride: int = 0
    shard: heads.Shard | None = None

    @property
    def columns(self) -> slice:
        """The tokens that base logits cover."""
        return slice(0, self.vocab) if self.shard is None else self.shard.columns

    @classmethod
    def of(cls, dtype: torch.dtype, **fields: Any) -> ServedShapes:
        """One dtype for all tensors, target logits included."""
        return cls(logits=dtype, w1=dtype, w2=dtype, kept=dtype, target=dtype, **fields)

    def flags(self) -> str:
        """The shapes and dtypes as options of ``python -m dspark_kernels.bench``.

        Leaves out requests, the confidence head and strides. A shard becomes a vocabulary of its padded size, which is
        the same on all ranks.
        """
        whole = self if self.shard is None else self._replace(vocab=self.stride)
        named = {
            name: str(value).removeprefix("torch.")
            for name, value in whole._asdict().items()
            if name not in ("requests", "bias", "markov", "greedy", "stride", "target_stride", "shard")
        }
        return " ".join(f"--{name} {value}" for name, value in named.items())


def absent_ranks(count: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A gather for compilation: it waits for no other rank, and its result is uninitialised."""
    return lambda values: values.new_empty((count, *values.shape))
