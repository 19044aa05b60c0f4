"""Two hundred prompts of mixed lengths and classes, some with common prefixes."""

from __future__ import annotations

from functools import cache

from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.local_server.closed_loop import Prompt

COUNT = 200
LENGTHS = (3, 12, 40, 90, 150)


@cache
def mixed() -> list[Prompt]:
    """Make prompts of 3 to 190 tokens with answers of 4 to 28; every fourth prompt extends the one before it."""
    texts = [held_out(CLASSES[i % len(CLASSES)], 1, LENGTHS[i % len(LENGTHS)], seed=100 + i)[0] for i in range(COUNT)]
    for i in range(3, COUNT, 4):
        texts[i] = texts[i - 1] + texts[i][:60]
    return [Prompt(text, 4 + 7 * i % 25, CLASSES[i % len(CLASSES)]) for i, text in enumerate(texts)]
