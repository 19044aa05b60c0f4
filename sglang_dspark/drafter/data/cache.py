"""Cached hidden states of the target, for targets whose passes cost more than the disk space.

A cache is a folder of ``shard-NNNNN.safetensors``, each with tokens, answer masks, features and last hidden states of
consecutive texts, and ``cache.json``, written last, with the target's name and the size of every shard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sglang_dspark.drafter.data.passages import Passage
from sglang_dspark.drafter.target import Target, check_layers_exist
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.files import write_atomically

INDEX = "cache.json"
SHARD_TOKENS = 65_536
TOGETHER = 8
"""Texts per pass of the target; on a CPU this is 1.5 times as fast as one by one."""


class Shard(BaseModel):
    """One shard file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    bytes: int
    lengths: tuple[int, ...]
    """Tokens of each text."""


class Index(BaseModel):
    """The content of ``cache.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    target: str
    layers: tuple[int, ...]
    shards: tuple[Shard, ...]


def size(passages: Sequence[Passage], target: Target, layers: Sequence[int]) -> int:
    """Compute the bytes of the shards without headers: 2 for each value and 9 for each token."""
    tokens = sum(len(passage.tokens) for passage in passages)
    width = target.config.hidden_size
    return int(tokens * (2 * width * (len(layers) + 1) + 9))


def write(
    folder: Path,
    passages: Sequence[Passage],
    target: Target,
    name: str,
    layers: Sequence[int],
    quota: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Run the target over texts and write its hidden states in bfloat16.

    Args:
        folder: The cache.
        passages: The texts.
        target: The model.
        name: The target's name, which ``cache.json`` records.
        layers: The layers whose outputs to keep.
        quota: The most bytes to write; nothing is written where the cache would be larger.
        progress: Called after each shard with the texts done and their total.

    Raises:
        InputError: The cache would exceed the quota or the free space, the folder holds a cache, or writing fails.
    """
    check_layers_exist(layers, target)
    needed = size(passages, target, layers)
    if needed > quota:
        raise InputError(
            f"{folder}: {len(passages)} texts need {needed / 1e9:.3f} GB and the quota is {quota / 1e9:.3f}; raise"
            " the quota, take fewer texts, or train without a cache"
        )
    if (folder / INDEX).exists():
        raise InputError(f"{folder}: holds a cache; remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder}: needs {needed / 1e9:.3f} GB and {free / 1e9:.3f} are free; choose another disk")
    shards: list[Shard] = []
    part: list[Passage] = []
    for n, passage in enumerate(passages, 1):
        part.append(passage)
        if sum(len(each.tokens) for each in part) >= SHARD_TOKENS or n == len(passages):
            file = f"shard-{len(shards):05d}.safetensors"
            content = save(_tensors(part, target, layers))
            write_atomically(folder / file, content)
            lengths = tuple(len(each.tokens) for each in part)
            shards.append(Shard(file=file, bytes=len(content), lengths=lengths))
            part = []
            progress(n, len(passages))
    index = Index(target=name, layers=tuple(layers), shards=tuple(shards))
    write_atomically(folder / INDEX, json.dumps(index.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


class Cache:
    """A cache opened for reading.

    Args:
        folder: Written by :func:`write`.

    Raises:
        InputError: The folder is not a cache, or a shard is absent or truncated.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / INDEX
        try:
            content = json.loads(path.read_text())
            self.index = Index.model_validate(content)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); write it with dspark data cache") from error
        except ValidationError as error:
            raise from_validation(error, path, content) from error
        except ValueError as error:
            raise InputError(f"{path}: is not JSON ({error}); write it anew") from error
        self._extents: list[tuple[int, int, int]] = []
        self._files = []
        for n, shard in enumerate(self.index.shards):
            file = folder / shard.file
            size = file.stat().st_size if file.exists() else 0
            if size != shard.bytes:
                raise InputError(f"{file}: has {size} of {shard.bytes} bytes; write the cache anew")
            try:
                self._files.append(safe_open(file, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file}: is damaged ({error}); write the cache anew") from error
            start = 0
            for length in shard.lengths:
                self._extents.append((n, start, length))
                start += length

    def __len__(self) -> int:
        return len(self._extents)

    def text(self, n: int) -> dict[str, Tensor]:
        """Return ``tokens`` [S], ``answer`` [S], ``features`` [S, L * H] and ``last`` [S, H] of text ``n``."""
        shard, start, length = self._extents[n]
        file = self._files[shard]
        names = ("tokens", "answer", "features", "last")
        return {name: file.get_slice(name)[start : start + length] for name in names}

    def tokens(self) -> Tensor:
        """Return the tokens of all texts, [n]."""
        return torch.cat([file.get_tensor("tokens") for file in self._files])


def _tensors(part: Sequence[Passage], target: Target, layers: Sequence[int]) -> dict[str, Tensor]:
    features, last = [], []
    for start in range(0, len(part), TOGETHER):
        texts = [torch.from_numpy(passage.tokens) for passage in part[start : start + TOGETHER]]
        states = target.hidden_states(pad_sequence(texts, batch_first=True).to(target.device), layers)
        for row, text in enumerate(texts):
            features.append(states.features[row, : len(text)].to("cpu", torch.bfloat16))
            last.append(states.last[row, : len(text)].to("cpu", torch.bfloat16))
    return {
        "tokens": torch.cat([torch.from_numpy(passage.tokens) for passage in part]),
        "answer": torch.cat([torch.from_numpy(passage.answer) for passage in part]),
        "features": torch.cat(features),
        "last": torch.cat(last),
    }
