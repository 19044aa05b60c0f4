"""The published JSON schema: every field is described with its unit, and scenario files validate against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from dspark_simulator.documented_schema import attributes
from dspark_simulator.scenario import PACKAGED, json_schema, names

SCHEMA = json_schema()
# Units, and what counts and ratios are of.
UNITS = (
    "second|byte|token|request|replica|client|gpu|layer|head|width|rank|share|factor|fraction|logit|deviation|draft|"
    "position|step|expert|group|stream|weight|parameter|channel|number|slot|reads|coefficient|matri|3 in|row|prefix"
)


def fields(schema: dict[str, Any] = SCHEMA) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a schema and its definitions."""
    for owner, definition in [(schema["title"], schema), *schema["$defs"].items()]:
        for name, field in definition.get("properties", {}).items():
            yield f"{owner}.{name}", field


def types(field: Any) -> Iterator[str]:
    """The JSON types of a field, of its alternatives and of its items."""
    if isinstance(field, dict):
        if isinstance(kind := field.get("type"), str):
            yield kind
        for part in (*field.get("anyOf", ()), *field.get("prefixItems", ()), field.get("items")):
            yield from types(part)


def test_every_field_is_described() -> None:
    assert len(list(fields())) > 300
    assert [name for name, field in fields() if not field.get("description")] == []
    # No field repeats its name or holds markup of the docstring.
    assert [name for name, field in fields() if re.search("``|:class:|:data:|Attributes:", field["description"])] == []


def test_numbers_name_their_unit() -> None:
    units = {
        "_s": "second",
        "_bytes": "byte",
        "_tokens": "token",
        "seconds": "second",
        "rate_per_s": "requests per second",
    }
    wrong = [
        name
        for name, field in fields()
        for ending, unit in units.items()
        if name.endswith(ending) and "number" in types(field) and unit not in field["description"].lower()
    ]
    assert wrong == []
    numbers = [(name, f["description"]) for name, f in fields() if {"number", "integer"} & set(types(f))]
    assert [name for name, text in numbers if not re.search(UNITS, text, re.IGNORECASE)] == []


@pytest.mark.parametrize("name", names())
def test_packaged_scenarios_are_valid(name: str) -> None:
    content = yaml.safe_load((PACKAGED / f"{name}.yaml").read_text())
    Draft202012Validator.check_schema(SCHEMA)
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(content)] == []


@pytest.mark.parametrize(
    ("content", "valid"),
    [
        ({"base": "b300-v4flash"}, True),
        ({"base": "b300"}, False),
        ({"base": "b300-v4flash", "gpu": 4}, False),
        ({"base": "b300-v4flash", "server": {"verify_mode": "never"}}, False),
        ({"name": "mine", "profile": "p.json"}, False),
        ({"name": "mine", "model": "m", "hardware": "h"}, False),
    ],
)
def test_what_an_editor_says_of_a_file(content: dict[str, Any], valid: bool) -> None:
    assert Draft202012Validator(SCHEMA).is_valid(content) is valid


class Base:
    """A base.

    Attributes:
        left, right: Width in ``px``,
            wrapped: with a colon.
        name: Of :class:`Base`.

    Not an attribute: this.
    """


class Child(Base):
    """A child.

    Attributes:
        name: Its own.
    """


class Silent(Base):
    pass


def test_attributes_are_read_from_docstrings_of_a_class_and_its_bases() -> None:
    width = "Width in `px`, wrapped: with a colon."
    assert attributes(Child) == {"left": width, "right": width, "name": "Its own."}
    assert attributes(Silent)["name"] == "Of `Base`."
