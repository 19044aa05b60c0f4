"""The one error that a user's input can cause, and how pydantic's findings become one line of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError


class InputError(ValueError):
    """Input that a person can mend. The message is one line: where, which field, which value, what to do."""


def from_validation(error: ValidationError, source: str | Path) -> InputError:
    """Turns the first finding of a pydantic validation into an :class:`InputError` naming ``source``."""
    finding = error.errors(include_url=False)[0]
    cause = finding.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    field = ".".join(str(part) for part in finding["loc"]) or "(root)"
    value = finding.get("input")
    if finding["type"] == "missing":
        return InputError(f"{source}: {field}: missing; add the field")
    if finding["type"] == "extra_forbidden":
        return InputError(f"{source}: {field}: unknown field (value {_short(value)}); remove it or check its spelling")
    return InputError(f"{source}: {field}: {_short(value)} is not valid; {_remedy(finding['msg'])}")


def _remedy(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


def _short(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
