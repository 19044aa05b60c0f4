"""The error that a user's input can cause, and its one-line form of pydantic's findings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError


class InputError(ValueError):
    """Input that a person can correct. The message is one line: where, which field, which value, what to do."""

    def __init__(self, message: str) -> None:
        # Names of fields and files come from the input, line breaks included.
        super().__init__(" ".join(message.splitlines()))


def end(program: str, error: Exception) -> NoReturn:
    """End the process with one line on stderr and exit code 2."""
    print(f"{program}: error:", " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
    sys.exit(2)


def from_validation(error: ValidationError, source: str | Path, content: object = None) -> InputError:
    """Turn the first finding of a pydantic validation into an :class:`InputError` naming ``source``.

    Args:
        content: The validated content, to distinguish fields from the union tags that pydantic adds to locations.
    """
    finding = error.errors(include_url=False)[0]
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause if str(cause).startswith(str(source)) else InputError(f"{source}: {cause}")
    where = ": ".join(part for part in (str(source), _field(finding["loc"], content)) if part)
    if finding["type"] == "missing":
        return InputError(f"{where}: missing; add the field")
    value = finding.get("input")
    if finding["type"] == "extra_forbidden":
        return InputError(f"{where}: unknown field (value {_short(value)}); remove it or check its spelling")
    if finding["type"] == "model_type":
        # An empty file is None; pydantic's own message names our classes.
        held = "is empty" if value is None else f"{_short(value)} is not valid"
        return InputError(f"{where}: {held}; write fields, as name: value")
    if finding["type"] == "value_error" and isinstance(value, dict):
        # Several fields do not fit together: the message names them, and their values are not one.
        return InputError(f"{where}: {_remedy(finding['msg'])}")
    return InputError(f"{where}: {_short(value)} is not valid; {_remedy(finding['msg'])}")


def _field(location: Sequence[int | str], content: object) -> str:
    """The location of a finding in the user's content, without union tags."""
    parts = []
    tagged = False
    for i, part in enumerate(location):
        if isinstance(content, dict):
            chosen = not tagged and part in (content.get("kind"), content.get("family"))
            if chosen or (part not in content and i < len(location) - 1):
                tagged = True
                continue
        parts.append(str(part))
        if isinstance(content, dict) or (isinstance(content, list) and isinstance(part, int)):
            content, tagged = _inside(content, part), False
    return ".".join(parts)


def _inside(content: Any, part: int | str) -> object:
    try:
        return content[part]
    except (KeyError, IndexError):
        return None


def _remedy(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


def _short(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
