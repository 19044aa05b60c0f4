"""Reading and writing prompts and conversations as JSON lines. No torch.

A line is an object with one of

- ``turns``: the user's turns (DeepSpec's prompts);
- ``conversations`` or ``messages``: a list of turns with a role (``role`` or ``from``) and a text (``content`` or
  ``value``), as in most published chat data;
- ``prompt``: a single user turn, or a list of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}

Message = dict[str, str]
"""``role`` (user, assistant or system) and ``content``, as chat templates take them."""


class Conversation(NamedTuple):
    """The conversation of one line."""

    messages: list[Message]
    source: str
    """``file:line``, for error messages."""

    @property
    def turns(self) -> list[str]:
        """The user's turns."""
        return [message["content"] for message in self.messages if message["role"] == "user"]


def read(path: Path) -> list[Conversation]:
    """Read a file of prompts or conversations; empty lines are skipped.

    Raises:
        InputError: The file cannot be read, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    conversations = [_conversation(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not conversations:
        raise InputError(f"{path}: holds no line; give at least one prompt")
    return conversations


def write_prompts(path: Path, prompts: Iterable[list[str]]) -> None:
    """Write prompts as lines with ``turns``."""
    write_atomically(path, "".join(json.dumps({"turns": turns}, ensure_ascii=False) + "\n" for turns in prompts))


def _conversation(line: str, source: str) -> Conversation:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source}: is not JSON ({error}); write one object a line") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: is a {type(content).__name__}; write one object a line")
    messages = list(_messages(content, source))
    if not any(message["role"] == "user" for message in messages):
        raise InputError(f"{source}: holds no turn of a user; give turns, conversations, messages or prompt")
    return Conversation(messages, source)


def _messages(content: dict[str, Any], source: str) -> Iterator[Message]:
    if "turns" in content or "prompt" in content:
        field = "turns" if "turns" in content else "prompt"
        turns = content[field]
        for turn in [turns] if isinstance(turns, str) else turns if isinstance(turns, list) else [turns]:
            if not isinstance(turn, str) or not turn:
                raise InputError(f"{source}: {field}: {turn!r} is no text; give the turns of a user")
            yield {"role": "user", "content": turn}
        return
    field = "conversations" if "conversations" in content else "messages"
    listed = content.get(field, [])
    for turn in listed if isinstance(listed, list) else [listed]:
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        text = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in ROLES or not isinstance(text, str):
            raise InputError(f"{source}: {field}: a turn needs a role ({', '.join(ROLES)}) and a text")
        yield {"role": ROLES[role], "content": text}
