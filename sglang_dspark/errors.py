"""The error that a user's input can cause, and its one-line form of pydantic's findings."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError

MOST_LINES = 20
# Fields by which a file chooses between models.
TAGS = ("kind", "family")

Model = TypeVar("Model", bound=BaseModel)


class InputError(ValueError):
    """Input that a person can correct, a line for each mistake: where, which field, which value, what to do."""

    def __init__(self, *lines: str) -> None:
        # Names of fields and files come from the input, line breaks included.
        super().__init__(*(" ".join(line.splitlines()) for line in lines))

    @property
    def lines(self) -> tuple[str, ...]:
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.lines)


def end(program: str, error: Exception) -> NoReturn:
    """End the process with a line on stderr for each mistake and exit code 2."""
    for line in error.lines if isinstance(error, InputError) else [" ".join(str(error).splitlines())]:
        print(f"{program}: error:", line, file=sys.stderr, flush=True)
    sys.exit(2)


def validated(
    model: type[Model],
    content: object,
    source: str | Path,
    context: dict[str, Any] | None = None,
    also: Sequence[str] = (),
) -> Model:
    """The content of a file as a model.

    Args:
        context: Validation context.
        also: Fields that the file may have besides those of ``model``.

    Raises:
        InputError: It has a line for each invalid field, which names ``source``.
    """
    try:
        return model.model_validate(content, context=context)
    except ValidationError as error:
        raise from_validation(error, source, content, model, also) from error


def from_validation(
    error: ValidationError,
    source: str | Path,
    content: object = None,
    model: type[BaseModel] | None = None,
    also: Sequence[str] = (),
) -> InputError:
    """Turn the findings of a pydantic validation into an :class:`InputError` naming ``source``.

    Args:
        content: The validated content, to distinguish fields from the union tags that pydantic adds to locations.
        model: The model that was validated, to suggest its fields for misspelled ones.
        also: Further fields to suggest.
    """
    findings = error.errors(include_url=False)
    lines = [
        line for one in findings if not _follows(one, findings) for line in _lines(one, source, content, model, also)
    ]
    lines = list(dict.fromkeys(lines))
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [f"{source}: {len(lines) - MOST_LINES + 1} more mistakes; correct these first"]
    return InputError(*lines)


def _follows(finding: Any, findings: Sequence[Any]) -> bool:
    """Whether a finding only follows from another: a default that needs an invalid field, a list of invalid items."""
    loc = finding["loc"]
    inside = any(len(one["loc"]) > len(loc) and one["loc"][: len(loc)] == loc for one in findings)
    return finding["type"] == "default_factory_not_called" or (finding["type"] == "too_short" and inside)


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """``; did you mean NAME?`` for the one of ``names`` that ``name`` probably misspells, or nothing."""
    folded = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def _lines(
    finding: Any, source: str | Path, content: object, model: type[BaseModel] | None, also: Sequence[str]
) -> Iterable[str]:
    cause = finding.get("ctx", {}).get("error")
    path = _path(finding["loc"], content)
    if isinstance(cause, InputError):
        # A validator names its field without the fields around it.
        around = "".join(f"{part}." for part in path[:-1])
        named = [f"{around}{line}" if path and line.startswith(f"{path[-1]}:") else line for line in cause.lines]
        return [line if line.startswith(str(source)) else f"{source}: {line}" for line in named]
    kind, value, remedy = finding["type"], finding.get("input"), _remedy(finding["msg"])
    if kind == "union_tag_invalid":
        tag = finding["ctx"]["discriminator"].strip("'")
        path, value, remedy = [*path, tag], finding["ctx"]["tag"], f"give one of {finding['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        kind, path = "missing", [*path, finding["ctx"]["discriminator"].strip("'")]
    where = ": ".join(part for part in (str(source), ".".join(map(str, path))) if part)
    if kind == "missing":
        return [f"{where}: missing; add the field"]
    if kind == "extra_forbidden":
        names = [*_fields(model, path[:-1], content), *(also if len(path) == 1 else ())]
        remedy = did_you_mean(path[-1], names) or "; remove it or check its spelling"
        return [f"{where}: unknown field (value {_short(value)}){remedy}"]
    if kind == "model_type":
        # An empty file is None; pydantic's own message names our classes.
        held = "is empty" if value is None else f"{_short(value)} is not valid"
        return [f"{where}: {held}; write fields, as name: value"]
    if kind == "value_error" and isinstance(value, dict):
        # Several fields do not fit together: the message names them, and their values are not one.
        return [f"{where}: {remedy}"]
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        remedy += did_you_mean(value, re.findall(r"'([^']*)'", remedy))
    return [f"{where}: {_short(value)} is not valid; {remedy}"]


def _path(location: Sequence[int | str], content: object) -> list[int | str]:
    """The location of a finding in the user's content, without union tags."""
    parts: list[int | str] = []
    tagged = False
    for i, part in enumerate(location):
        if isinstance(content, dict):
            chosen = not tagged and part in [content.get(tag) for tag in TAGS]
            if chosen or (part not in content and i < len(location) - 1):
                tagged = True
                continue
        parts.append(part)
        if isinstance(content, dict) or (isinstance(content, list) and isinstance(part, int)):
            content, tagged = _inside(content, part), False
    return parts


def _inside(content: Any, part: int | str) -> Any:
    try:
        return content[part]
    except (KeyError, IndexError, TypeError):
        return None


def _fields(model: type[BaseModel] | None, path: Sequence[int | str], content: Any) -> list[str]:
    """Names of the fields that ``model`` knows at ``path`` of the content."""
    models = [] if model is None else [model]
    for part in path:
        content = _inside(content, part)
        inside = [field.annotation for one in models if (field := one.model_fields.get(str(part)))]
        # Keys of a mapping and places of a list are no fields: the annotation already led to their models.
        models = [one for annotation in inside for one in _models(annotation)] or models
        tags = [tag for tag in TAGS if isinstance(content, dict) and tag in content]
        for tag in tags:
            models = [
                one
                for one in models
                if (field := one.model_fields.get(tag)) and content[tag] in get_args(field.annotation)
            ] or models
    return [name for one in models for name in one.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation; in place of an abstract one, those that are made from it."""
    if inspect.isclass(annotation) and not get_args(annotation) and issubclass(annotation, BaseModel):
        if inspect.isabstract(annotation):
            for member in annotation.__subclasses__():
                yield from _models(member)
        else:
            yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _remedy(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


def _short(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
