"""Conversations as tokens, with what of them the target wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.drafter.data.conversations import Conversation, Message, read
from sglang_dspark.errors import InputError


class Passage(NamedTuple):
    """One answer after the conversation that it answers."""

    tokens: NDArray[np.int64]
    """[S]."""

    answer: NDArray[np.bool_]
    """[S] the answer's tokens, that which ends it included."""


def passages(
    files: Sequence[Path], tokenizer: Any, max_length: int, template: dict[str, Any] | None = None
) -> list[Passage]:
    """One passage for each answer of each conversation, cut to ``max_length`` tokens.

    An answer's passage is what a server would have had before it: some chat templates drop thinking from earlier turns.
    Answers of less than two tokens within the cut hold no block and are left out.

    Args:
        tokenizer: one of transformers with a chat template.
        template: additions to the template's arguments.

    Raises:
        InputError: A file cannot be used, or none holds an answer that is long enough.
    """
    found = []
    for file in files:
        for conversation in read(file):
            for end, message in enumerate(conversation.messages, 1):
                if message["role"] == "assistant" and message["content"]:
                    passage = _passage(conversation, end, tokenizer, max_length, template or {})
                    if passage.answer.sum() >= 2:
                        found.append(passage)
    if not found:
        names = ", ".join(map(str, files))
        raise InputError(f"{names}: holds no answer of two tokens; answer the prompts first (dspark data regenerate)")
    return found


def _passage(
    conversation: Conversation, end: int, tokenizer: Any, max_length: int, template: dict[str, Any]
) -> Passage:
    messages: list[Message] = conversation.messages[:end]
    before = _render(tokenizer, messages[:-1], conversation.source, add_generation_prompt=True, **template)
    whole = _render(tokenizer, messages, conversation.source, **template)
    if not whole.startswith(before):
        # Templates that ask for an answer in other words than they give one in later.
        whole = before + messages[-1]["content"] + (tokenizer.eos_token or "")
    # Apart, as the server saw the first before it wrote the second: no token holds something of both.
    given, written = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole[len(before) :]))
    tokens = np.array([*given, *written][:max_length], np.int64)
    return Passage(tokens, np.arange(len(tokens)) >= len(given))


def _render(tokenizer: Any, messages: list[Message], source: str, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:
        # Templates raise errors of their own, for roles in an order that they do not know.
        raise InputError(f"{source}: the target's chat template refuses it ({error})") from error
