"""A scenario as a commented YAML file that reads back as the same scenario."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from dspark_simulator.costs import CostModel
from dspark_simulator.deployment import Live, Memory
from dspark_simulator.documented_schema import attributes
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.workloads import RequestClass, Workload

_WIDTH: Final = 118
# Fields by which a file chooses between models.
_TAGS: Final = ("kind", "family")
# Parts whose fields get a line and a comment each.
_EXPANDED: Final = (CostModel, Server, Memory, Live, Workload, RequestClass, Run)


def to_yaml(scenario: Scenario) -> str:
    """Write the scenario's fields with their descriptions.

    Fields that nobody stated are comments with their defaults, so that defaults that depend on other fields still do.
    Paths are absolute.
    """
    return "\n".join(_lines(scenario, "", set())) + "\n"


def _lines(model: BaseModel, indent: str, described: set[tuple[type, str]]) -> Iterator[str]:
    kind = type(model)
    texts = attributes(kind)
    for name in _fields(model):
        value = getattr(model, name)
        if name in texts and (kind, name) not in described:
            described.add((kind, name))
            yield from _wrapped(texts[name], f"{indent}# ")
        if not _stated(model, name):
            if not isinstance(value, _EXPANDED):
                yield f"{indent}# {_flow({name: _plain(value)})}"
        elif isinstance(value, _EXPANDED):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ", described)
        elif isinstance(value, tuple) and value and isinstance(value[0], _EXPANDED):
            yield f"{indent}{name}:"
            for item in value:
                first, *rest = _lines(item, f"{indent}    ", described)
                yield f"{indent}  - {first.strip()}"
                yield from rest
        else:
            yield from _value(name, _plain(value), indent)


def _value(name: str, value: Any, indent: str) -> Iterator[str]:
    line = f"{indent}{_flow({name: value})}"
    if len(line) <= _WIDTH:
        yield line
    elif isinstance(value, str) and value.rstrip("\n") == " ".join(value.split()) and not value.endswith("\n\n"):
        yield f"{indent}{name}: {'>' if value.endswith(chr(10)) else '>-'}"
        yield from _wrapped(value, f"{indent}  ")
    else:
        text = yaml.safe_dump(
            {name: value}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=_WIDTH - len(indent)
        )
        yield textwrap.indent(text.rstrip(), indent)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _flow(value: dict[str, Any]) -> str:
    """A field in one line, without the braces of its mapping."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=float("inf"))
    return text.strip()[1:-1]


def _fields(model: BaseModel) -> list[str]:
    """Names of the fields, that of its kind first."""
    return sorted(type(model).model_fields, key=lambda name: name not in _TAGS)


def _stated(model: BaseModel, name: str) -> bool:
    return name in model.model_fields_set or name in _TAGS or type(model).model_fields[name].is_required()


def _plain(value: Any) -> Any:
    """Stated fields as YAML's own types."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in _fields(value) if _stated(value, name)}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value
