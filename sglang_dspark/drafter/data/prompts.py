"""Prompts to train on and prompts held out, from files of conversations. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sglang_dspark.drafter.data.conversations import read, write_prompts


class Split(NamedTuple):
    """How many prompts went where."""

    train: int
    held_out: int
    repeated: int
    """Lines left out because another had the same turns."""


def split(sources: Sequence[Path], train: Path, held_out: Path, share: float, limit: int | None = None) -> Split:
    """Takes the user's turns of conversations, once each, and holds some out.

    A hash of its turns decides whether a prompt is held out, so that no other line added or removed moves it, and the
    order of those kept.

    Args:
        share: of the prompts to hold out, 0..1.
        limit: prompts to keep in all; by default every one.

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
