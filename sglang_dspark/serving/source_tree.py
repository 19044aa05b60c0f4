"""The modules of an SGLang package, parsed from a folder or a wheel without importing them."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sglang_dspark.errors import InputError

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class SourceTree:
    """Looks up definitions by dotted path."""

    def __init__(self, place: Path) -> None:
        """
        Args:
            place: A wheel, or the folder that holds the package's.

        Raises:
            InputError: It is neither.
        """
        self._folder = place
        self._wheel: zipfile.ZipFile | None = None
        if place.is_file():
            try:
                self._wheel = zipfile.ZipFile(place)
            except zipfile.BadZipFile as error:
                raise InputError(f"{place}: not a wheel ({error}); download it again") from error
        elif not (place / "sglang").is_dir():
            raise InputError(f"{place}: no wheel and no folder with sglang in it; give either")
        self._modules: dict[str, ast.Module | None] = {}

    def module(self, name: str) -> ast.Module | None:
        """A module's syntax tree; None where there is no such module.

        Raises:
            InputError: This Python does not read it.
        """
        if name not in self._modules:
            path = name.replace(".", "/")
            text = self._read(f"{path}.py")
            if text is None:
                text = self._read(f"{path}/__init__.py")
            try:
                self._modules[name] = None if text is None else ast.parse(text)
            except SyntaxError as error:
                raise InputError(f"{name}: {error}; run the check with a newer Python") from error
        return self._modules[name]

    def _read(self, path: str) -> str | None:
        try:
            if self._wheel is not None:
                return self._wheel.read(path).decode()
            return (self._folder / path).read_text(encoding="utf-8")
        except (KeyError, OSError):
            return None

    def find(self, name: str, depth: int = 5) -> Definition | ast.Module | None:
        """Look up a dotted path through re-exports and base classes; None where it names nothing."""
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            module = ".".join(parts[:cut])
            if (tree := self.module(module)) is not None:
                return self._inside(module, tree, parts[cut:], depth)
        return None

    def _inside(
        self, module: str, tree: ast.Module | ast.ClassDef, rest: list[str], depth: int
    ) -> Definition | ast.Module | None:
        if not rest:
            return tree
        for node in _statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == rest[0]:
                if len(rest) == 1:
                    return node
                return self._inside(module, node, rest[1:], depth) if isinstance(node, ast.ClassDef) else None
            if len(rest) == 1 and isinstance(node, ast.Assign | ast.AnnAssign) and rest[0] in _targets(node):
                return node  # A class may be made anew of itself; what is inside is in its first definition.
            if isinstance(node, ast.ImportFrom) and depth:
                for alias in node.names:
                    if (alias.asname or alias.name) == rest[0]:
                        origin = _absolute(module, node)
                        return self.find(".".join([origin, alias.name, *rest[1:]]), depth - 1)
        if isinstance(tree, ast.ClassDef) and depth:
            for base in tree.bases:
                if (definition := self.find(f"{module}.{ast.unparse(base)}.{'.'.join(rest)}", depth - 1)) is not None:
                    return definition
        return None

    def attributes(self, module: str) -> set[str]:
        """Names that objects of a module have: its functions and classes, fields, and what is assigned to an object."""
        tree = self.module(module)
        names: set[str] = set()
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            if isinstance(node, ast.ClassDef):
                fields = [part for part in node.body if isinstance(part, ast.Assign | ast.AnnAssign)]
                names.update(*(_targets(part) for part in fields))
        return {name for name in names if not name.startswith("__")}


def _statements(tree: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Statements of a module or class, those under ``if`` and ``try`` included; the last definition comes first."""

    def walk(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            yield node
            if isinstance(node, ast.If | ast.Try):
                yield from walk(node.body)
                yield from walk(node.orelse)
            if isinstance(node, ast.Try):
                for handler in node.handlers:
                    yield from walk(handler.body)
                yield from walk(node.finalbody)

    return reversed(list(walk(tree.body)))


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level] or module.split(".")
    return ".".join([*base, *([node.module] if node.module else [])])
