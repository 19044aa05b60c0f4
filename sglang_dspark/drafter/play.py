"""Conversations answered by speculation: what ``dspark eval`` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sglang_dspark.drafter import checkpoint
from sglang_dspark.drafter.base import check_layers
from sglang_dspark.drafter.checkpoint import AnyDrafter
from sglang_dspark.drafter.data.conversations import Message
from sglang_dspark.drafter.evaluate import Rounds, join, speculate
from sglang_dspark.drafter.target import Target, check_tokenizer, load_tokenizer
from sglang_dspark.errors import InputError


class Pair(NamedTuple):
    """A target, a drafter that was trained for it, and their tokenizer."""

    target: Target
    drafter: AnyDrafter
    tokenizer: Any


def load(target_name: str, draft: Path, device: str) -> Pair:
    """Loads a pair.

    Raises:
        InputError: One of them cannot be loaded, or they do not belong together.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    drafter = checkpoint.load(draft, dtype)
    target = Target.load(target_name, dtype, device)
    tokenizer = load_tokenizer(target_name)
    check(drafter, target, tokenizer, str(draft))
    if drafter.shared_absent:
        drafter.adopt(target.embedding.to(dtype).cpu(), target.head.to(dtype).cpu())
    return Pair(target, drafter.to(torch.device(device)).eval(), tokenizer)


def check(drafter: AnyDrafter, target: Target, tokenizer: Any, source: str) -> None:
    """Raises InputError unless the drafter was trained for the target and its tokenizer."""
    config = drafter.config
    check_layers(config, len(target.layers), source)
    shape = (config.vocab_size, config.hidden_size)
    if shape != tuple(target.embedding.shape):
        raise InputError(
            f"{source}: vocab_size, hidden_size: {list(shape)} are not {list(target.embedding.shape)}, the target's;"
            " give the target that the draft was trained for"
        )
    check_tokenizer(len(tokenizer), config.vocab_size, source)
    if not drafter.shared_absent:
        theirs = target.embedding.detach().to("cpu", torch.bfloat16)
        if not torch.equal(drafter.embed_tokens.weight.detach().to("cpu", torch.bfloat16), theirs):
            raise InputError(
                f"{source}: embed_tokens differs from the target's embedding; give the target that the draft was"
                " trained for"
            )


def play(
    pair: Pair,
    prompts: Sequence[Sequence[str]],
    new: int,
    temperature: float,
    seed: int,
    together: int = 16,
    template: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Rounds:
    """Answers conversations turn by turn, speculating.

    Args:
        prompts: the user's turns of each.
        new: tokens of an answer, unless the target ends it before.
        together: conversations at a time.
        template: additions to the chat template's arguments.

    Returns:
        The rounds; a conversation counts as one request for each of its turns.
    """
    stop = pair.target.stop_tokens()
    parts = []
    for start in range(0, len(prompts), together):
        batch = [list(turns) for turns in prompts[start : start + together]]
        said: list[list[Message]] = [[] for _ in batch]
        for turn in range(max(map(len, batch))):
            asking = [i for i, turns in enumerate(batch) if turn < len(turns)]
            for i in asking:
                said[i].append({"role": "user", "content": batch[i][turn]})
            given = [_tokens(pair.tokenizer, said[i], template or {}) for i in asking]
            number = (seed * 1_000_003 + start) * 101 + turn
            rounds = speculate(pair.target, pair.drafter, given, new, temperature, number, stop)
            parts.append(rounds)
            for i, ids, text in zip(asking, given, rounds.texts, strict=True):
                answer = pair.tokenizer.decode(text[len(ids) :], skip_special_tokens=True)
                said[i].append({"role": "assistant", "content": answer})
        progress(min(start + together, len(prompts)), len(prompts))
    return join(parts)


def _tokens(tokenizer: Any, messages: list[Message], template: dict[str, Any]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise InputError(f"prompt: {messages[-1]['content'][:40]!r} has no token; leave it out")
    return ids
