"""JSON schemas whose fields carry the text of the ``Attributes`` sections of their classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

_SECTION = "Attributes:"


class DocumentedSchema(GenerateJsonSchema):
    """A schema generator for ``model_json_schema(schema_generator=...)``."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        content = super().model_schema(schema)
        cls = schema["cls"]
        texts = attributes(cls)
        summary = _plain(inspect.cleandoc(cls.__doc__ or "").partition(_SECTION)[0])
        content["description"] = summary
        for name, field in content.get("properties", {}).items():
            if name in texts:
                field["description"] = texts[name]
            elif "const" in field:
                field["description"] = f"Selects: {summary.partition('. ')[0].rstrip('.')}."
        return content


def attributes(cls: type[Any]) -> dict[str, str]:
    """Text of each attribute that a class or its bases document; a line ``a, b: text`` documents two."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        lines = inspect.cleandoc(vars(base).get("__doc__") or "").partition(_SECTION)[2].splitlines()
        for names, text in _entries(lines):
            texts |= {name: _plain(text) for name in names.split(", ")}
    return texts


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names and text of a section whose entries are indented by 4."""
    section = []
    for line in lines[1:]:
        if line and not line.startswith("    "):
            break
        section.append(line)
    for entry in re.split(r"\n(?=    \S)", "\n".join(section)):
        names, colon, text = entry.partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names.strip()):
            yield names.strip(), text


def _plain(text: str) -> str:
    """Text without line breaks and reStructuredText roles."""
    return re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"`\1\2`", " ".join(text.split()))
