"""Splitting prompts into training and held-out sets. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sglang_dspark.drafter.data.conversations import read, write_prompts


class Split(NamedTuple):
    """The numbers of prompts in each set."""

    train: int
    held_out: int
    repeated: int
    """Lines dropped as duplicates of another line's turns."""


def split(sources: Sequence[Path], train: Path, held_out: Path, share: float, limit: int | None = None) -> Split:
    """Extract the distinct user turns of conversations and hold some out.

    A hash of a prompt's turns determines its set and its order, so that adding or removing other lines does not move
    it.

    Args:
        sources: JSON lines of prompts or conversations.
        train: The file of training prompts.
        held_out: The file of held-out prompts.
        share: The share of prompts to hold out, 0..1.
        limit: Prompts to keep in total; all by default.

    Raises:
        InputError: A source cannot be used.
    """
    prompts: dict[bytes, list[str]] = {}
    lines = 0
    for source in sources:
        for conversation in read(source):
            lines += 1
            digest = hashlib.sha256("\0".join(conversation.turns).encode()).digest()
            prompts[digest] = conversation.turns
    ordered = sorted(prompts)[:limit]
    held = {digest for digest in ordered if int.from_bytes(digest[-4:]) < share * 2**32}
    write_prompts(train, (prompts[digest] for digest in ordered if digest not in held))
    write_prompts(held_out, (prompts[digest] for digest in ordered if digest in held))
    return Split(len(ordered) - len(held), len(held), lines - len(prompts))
