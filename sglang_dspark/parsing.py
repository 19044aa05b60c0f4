"""Parsers of YAML and JSON files that refuse a key given twice, of which the standard ones keep the last value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_dspark.errors import InputError

if TYPE_CHECKING:
    from yaml import Node, SafeLoader


def parse_yaml(text: str, source: str | Path, remedy: str = "correct the syntax") -> Any:
    """The content of a YAML file; None if it is empty.

    Raises:
        InputError: Not YAML, or keys that are given twice in a mapping.
    """
    # The live engine reads policies, which are JSON, and may lack PyYAML.
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        if twice := [f"{source}: {field}: {where}" for field, where in _given_twice(loader, root, "", set())]:
            raise InputError(*twice)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML ({error}); {remedy}") from error
    except RecursionError as error:
        raise InputError(f"{source}: not YAML (nested too deeply); {remedy}") from error


def parse_json(text: str, source: str | Path, remedy: str = "correct the syntax") -> Any:
    """The content of a JSON file.

    Raises:
        InputError: Not JSON, or keys that are given twice in an object.
    """
    twice: list[str] = []

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice.extend(f"{source}: {key}: given twice in one object; keep one" for key in counts if counts[key] > 1)
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not JSON ({error}); {remedy}") from error
    if twice:
        raise InputError(*twice)
    return content


def _given_twice(loader: SafeLoader, node: Node, path: str, seen: set[Node]) -> Iterator[tuple[str, str]]:
    """Fields that are given twice below a node, and where. Keys that a merge (``<<``) brings may be overridden."""
    import yaml

    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield from _given_twice(loader, item, f"{path}{place}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[Any, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name, line = loader.construct_object(key), key.start_mark.line + 1
                if name in lines:
                    yield f"{path}{name}", f"given in line {lines[name]} and again in line {line}; keep one"
                lines[name] = line
            yield from _given_twice(loader, value, f"{path}{getattr(key, 'value', key)}.", seen)
