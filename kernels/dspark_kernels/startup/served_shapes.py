"""The shapes and dtypes with which one server launches the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from dspark_kernels import heads

# Qwen3-8B with a DSpark draft of rank 256.
VOCAB, RANK, GAMMA, HIDDEN = 151_936, 256, 7, 4096


class ServedShapes(NamedTuple):
    """What a server launches kernels on: shapes and dtypes, which decide the code that they compile to.

    Attributes:
        vocab: Of the model: with a ``shard`` that of all ranks.
        requests: The most that run at once.
        logits, w1, w2, kept, target: Of base logits, the head's matrices, kept logits and the target's logits.
        bias, markov: Whether the confidence head has a bias, and reads the embedding of the token before.
        greedy: Whether drafts are argmax at any temperature.
        stride, target_stride: Columns in memory of a row of base logits and of the target's logits, where SGLang pads
            the vocabulary and cuts the padding off; 0 for none.
        shard: Of the vocabulary, that base logits are of.
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
        """The tokens that base logits are of."""
        return slice(0, self.vocab) if self.shard is None else self.shard.columns

    @classmethod
    def of(cls, dtype: torch.dtype, **fields: Any) -> ServedShapes:
        """Of one dtype throughout, target included."""
        return cls(logits=dtype, w1=dtype, w2=dtype, kept=dtype, target=dtype, **fields)

    def flags(self) -> str:
        """The shapes and dtypes as options of ``python -m dspark_kernels.bench``; requests, the confidence head and
        where logits lie aside. A shard is a vocabulary of its padded size, which all ranks have alike."""
        whole = self if self.shard is None else self._replace(vocab=self.stride)
        named = {
            name: str(value).removeprefix("torch.")
            for name, value in whole._asdict().items()
            if name not in ("requests", "bias", "markov", "greedy", "stride", "target_stride", "shard")
        }
        return " ".join(f"--{name} {value}" for name, value in named.items())


def absent_ranks(count: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A gather that waits for no other rank, and whose result is unwritten."""
    return lambda values: values.new_empty((count, *values.shape))
