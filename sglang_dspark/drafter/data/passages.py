"""Tokenized conversations with a mask of the target's answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.drafter.data.conversations import Conversation, Message, read
from sglang_dspark.errors import InputError


class Passage(NamedTuple):
    """An answer, preceded by the conversation that it answers."""

    tokens: NDArray[np.int64]
    """[S]."""

    answer: NDArray[np.bool_]
    """[S] True for the answer's tokens, including its end token."""


def passages(
    files: Sequence[Path], tokenizer: Any, max_length: int, template: dict[str, Any] | None = None
) -> list[Passage]:
    """Tokenize every answer of every conversation, truncated to ``max_length`` tokens.

    The text before an answer is the prompt that a server would have seen: some chat templates drop thinking from
    earlier turns. Answers of fewer than two tokens within the limit contain no block and are skipped.

    Args:
        files: JSON lines of answered conversations.
        tokenizer: A transformers tokenizer with a chat template.
        max_length: Tokens of a passage.
        template: Additional arguments of the chat template.

    Raises:
        InputError: A file cannot be used, or no answer is long enough.
    """
    kept = []
    for file in files:
        for conversation in read(file):
            for end, message in enumerate(conversation.messages, 1):
                if message["role"] == "assistant" and message["content"]:
                    passage = _passage(conversation, end, tokenizer, max_length, template or {})
                    if passage.answer.sum() >= 2:
                        kept.append(passage)
    if not kept:
        names = ", ".join(map(str, files))
        raise InputError(f"{names}: holds no answer of two tokens; answer the prompts first (dspark data regenerate)")
    return kept


def _passage(
    conversation: Conversation, end: int, tokenizer: Any, max_length: int, template: dict[str, Any]
) -> Passage:
    messages: list[Message] = conversation.messages[:end]
    before = _render(tokenizer, messages[:-1], conversation.source, add_generation_prompt=True, **template)
    whole = _render(tokenizer, messages, conversation.source, **template)
    if not whole.startswith(before):
        # Some templates render the prompt of an answer differently once the answer is part of the conversation.
        whole = before + messages[-1]["content"] + (tokenizer.eos_token or "")
    # Tokenized separately, as in the server: no token spans prompt and answer.
    given, written = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole[len(before) :]))
    tokens = np.array([*given, *written][:max_length], np.int64)
    return Passage(tokens, np.arange(len(tokens)) >= len(given))


def _render(tokenizer: Any, messages: list[Message], source: str, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:
        # Templates raise their own errors, such as for an unexpected order of roles.
        raise InputError(f"{source}: the target's chat template refuses it ({error})") from error
