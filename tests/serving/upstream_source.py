"""SGLang's source as text: a module's definitions, without importing modules that need a GPU."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A definition and the module that holds it."""

    module: str
    node: ast.stmt


def place(symbol: str) -> Place | None:
    """Where a dotted path is defined; None where it is not."""
    parts = symbol.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if (tree := _tree(module)) is None:
            continue
        node: Any = tree
        for name in parts[cut:]:
            node = next((one for one in node.body if name in _names(one)), None)
            if node is None:
                return None
        return Place(module, node)
    return None


def _names(node: Any) -> set[str]:
    """What a statement defines."""
    targets = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    return {getattr(node, "name", ""), *(getattr(target, "id", "") for target in targets)}


def attribute(symbol: str, name: str) -> ast.stmt | None:
    """The definition of a class's attribute, of its own or of the first base that has it."""
    found = place(symbol)
    assert found is not None and isinstance(found.node, ast.ClassDef), symbol
    for one in found.node.body:
        target = one.target if isinstance(one, ast.AnnAssign) else None
        if getattr(target, "id", None) == name or getattr(one, "name", None) == name:
            return one
    for base in found.node.bases:
        origin = _origin(found.module, base.id) if isinstance(base, ast.Name) else None
        if origin is not None and (one := attribute(origin, name)) is not None:
            return one
    return None


def _origin(module: str, name: str) -> str | None:
    """The dotted path of a name in a module that is defined or imported there; None outside SGLang."""
    if place(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    tree = _tree(module)
    assert tree is not None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return f"{node.module}.{name}" if str(node.module).startswith("sglang") else None
    return None


def file(module: str) -> Path:
    """Where a module's source is, or would be."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    return path.with_suffix(".py") if rest else path / "__init__.py"


@functools.cache
def _tree(module: str) -> ast.Module | None:
    path = file(module)
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
