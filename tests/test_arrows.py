"""Imports point one way: no circle between files, and the arrows between packages and rooms. Imports inside functions
count; those under TYPE_CHECKING, which never run, do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "dspark_kernels": ROOT / "kernels",
    "sglang_dspark": ROOT,
    "dspark_simulator": ROOT / "simulator",
    "dspark_tuning": ROOT / "tuning",
}
# What of the package before it each package may import; None is all of it.
BELOW: dict[str, dict[str, tuple[str, ...] | None]] = {
    "dspark_kernels": {},
    "sglang_dspark": {"dspark_kernels": None},
    "dspark_simulator": {"sglang_dspark": ("policy", "shapes", "errors", "files", "jit", "parsing")},
    "dspark_tuning": {"dspark_kernels": None, "sglang_dspark": None, "dspark_simulator": None},
}
ROOMS = ("search", "planning", "measuring", "reporting", "cli")
# Rooms that each room of ``dspark_tuning`` may import, itself included; the package itself holds the version.
LOWER = {
    "search": {"", "search"},
    "planning": {"", "search", "planning"},
    "measuring": {"", "search", "measuring"},
    "reporting": {"", "search", "planning", "measuring", "reporting"},
    "cli": {"", *ROOMS},
}


def _modules() -> dict[str, Path]:
    """Every file of the four packages, by its dotted name."""
    modules = {}
    for package, root in SOURCES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    names: set[str] = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                names.add(inside if inside in modules else str(node.module))
    return names & modules.keys()


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    modules = _modules()
    return {name: _imports(path, modules) - {name} for name, path in modules.items()}


def _place(name: str) -> tuple[str, str]:
    """A module's package and the part of it that the module is in; empty for the package itself."""
    package, _, rest = name.partition(".")
    return package, rest.partition(".")[0]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in order; none where there is no circle."""
    done: set[str] = set()
    trail: list[str] = []

    def visit(name: str) -> list[str]:
        if name in trail:
            return trail[trail.index(name) :]
        if name in done:
            return []
        trail.append(name)
        for other in sorted(graph[name]):
            if ring := visit(other):
                return ring
        trail.pop()
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := visit(name))), [])


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def test_no_files_import_each_other_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 300
    assert circle(graph) == []


def test_packages_import_what_lies_below_them(graph: dict[str, set[str]]) -> None:
    wrong = []
    for name, imported in graph.items():
        package, _ = _place(name)
        for other in imported:
            below, part = _place(other)
            parts = BELOW[package].get(below, ())
            if below != package and parts is not None and part not in parts:
                wrong.append(f"{name} -> {other}")
    assert sorted(wrong) == []


def test_rooms_of_tuning_import_what_lies_below_them(graph: dict[str, set[str]]) -> None:
    wrong = []
    for name, imported in graph.items():
        package, room = _place(name)
        if package != "dspark_tuning" or room not in ROOMS:
            continue
        for other in imported:
            below, part = _place(other)
            if below == package and part not in LOWER[room]:
                wrong.append(f"{name} -> {other}")
    assert sorted(wrong) == []


def test_sglang_is_imported_by_the_live_side_alone() -> None:
    live = ("sglang_dspark.serving", "sglang_dspark.cpu_engine", "sglang_dspark.gpu_check", "dspark_tuning.measuring")
    wrong = []
    for name, path in _modules().items():
        for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(each.split(".")[0] == "sglang" for each in names) and not name.startswith(live):
                wrong.append(name)
    assert sorted(set(wrong)) == []
