"""Compare two SGLang versions in what the plugin relies on, from their source without importing it.

    python -m sglang_dspark.serving.evidence.upstream_check sglang-0.5.24-py3-none-any.whl

compares with the installed version: the targets of ``hooks`` and the parameters that they rely on, what this package
imports from SGLang or names in full, and the attributes that it looks up on SGLang's objects.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sglang_dspark.errors import InputError, end
from sglang_dspark.serving.hooks import Hook, cpu_hooks, kernel_hooks, launch_hooks, policy_hooks, scheduler_hooks
from sglang_dspark.serving.source_tree import Definition, SourceTree

PACKAGE = Path(__file__).parents[2]
FULL_NAME = re.compile(r"sglang(\.\w+){2,}")


class Place(NamedTuple):
    """A file and line of this package that relies on something."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Finding(NamedTuple):
    """One difference.

    Attributes:
        name: Dotted path, or ``module: attribute``.
        what: The difference.
        breaks: The plugin fails or refuses to start with it.
        diff: Lines of a unified diff.
    """

    name: str
    what: str
    breaks: bool
    diff: tuple[str, ...] = ()


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    """A function's parameters, each with how it is passed and its default."""
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    by_name = {arg.arg: _default(value) for arg, value in zip(plain, defaults, strict=True)}
    by_name |= {a.arg: f"keyword{_default(v)}" for a, v in zip(args.kwonlyargs, args.kw_defaults, strict=True)}
    if args.vararg:
        by_name[f"*{args.vararg.arg}"] = ""
    if args.kwarg:
        by_name[f"**{args.kwarg.arg}"] = ""
    return by_name


def _default(value: ast.expr | None) -> str:
    return "" if value is None else f"={ast.unparse(value)}"


def compare(name: str, old: SourceTree, new: SourceTree, relied_on: Iterable[str] = ()) -> Finding | None:
    """The difference in what ``name`` stands for; None where there is none.

    Args:
        relied_on: Parameters that must be there.
    """
    before, after = old.find(name), new.find(name)
    if after is None:
        return Finding(name, "is not there", True) if before is not None or relied_on else None
    if before is None:
        return Finding(name, "is new", False)
    if isinstance(before, ast.Module) or isinstance(after, ast.Module):
        return None if type(before) is type(after) else Finding(name, "is something else", True)
    if type(before) is not type(after):
        return Finding(name, f"was a {_kind(before)} and is a {_kind(after)}", True)
    if ast.dump(_plain(before)) == ast.dump(_plain(after)):
        return None
    what, breaks = f"its {_kind(after)} changed", False
    if isinstance(before, ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(
        after, ast.FunctionDef | ast.AsyncFunctionDef
    ):
        had, has = parameters(before), parameters(after)
        changes = [f"-{p}" for p in had if p not in has] + [f"+{p}{has[p]}" for p in has if p not in had]
        changes += [f"{p}{had[p]} -> {p}{has[p]}" for p in had if p in has and had[p] != has[p]]
        breaks = any(p not in has for p in relied_on)
        what = f"parameters: {', '.join(changes)}" if changes else "its body changed"
    lines = difflib.unified_diff(
        ast.unparse(_plain(before)).splitlines(), ast.unparse(_plain(after)).splitlines(), "old", "new", lineterm=""
    )
    return Finding(name, what, breaks, tuple(lines))


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    return "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "value"


@cache
def _plain(node: Definition) -> Definition:
    """A definition without docstrings; a class also without its methods, which are compared on their own."""
    copy: Definition = ast.parse(ast.unparse(node)).body[0]  # type: ignore[assignment]
    for part in ast.walk(copy):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(part):
            part.body = part.body[1:] or [ast.Pass()]
    if isinstance(copy, ast.ClassDef):
        kept = [part for part in copy.body if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        copy.body = kept or [ast.Pass()]
    return copy


class Uses(NamedTuple):
    """SGLang's names that this package uses, each with the first place of use.

    Attributes:
        imported: Modules, functions and classes.
        named: Of those, the ones that are only written down, such as in the table of supported features.
        attributes: Looked up on objects, SGLang's or not.
    """

    imported: dict[str, Place]
    named: dict[str, Place]
    attributes: dict[str, Place]


def uses(package: Path = PACKAGE) -> Uses:
    """Read the names that ``package`` imports from SGLang or writes in full, and the attributes that it looks up."""
    imported: dict[str, Place] = {}
    named: dict[str, Place] = {}
    attributes: dict[str, Place] = {}
    for path in sorted(package.rglob("*.py")):
        file = str(path.relative_to(package.parent))
        text = path.read_text(encoding="utf-8")
        serves = {"serving", "cpu_engine"} & set(path.parts) and path.name not in (
            "upstream_check.py",
            "source_tree.py",
        )
        for node in ast.walk(ast.parse(text)):
            at = Place(file, getattr(node, "lineno", 0))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang."):
                for alias in node.names:
                    imported.setdefault(f"{node.module}.{alias.name}", at)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("sglang."):
                        imported.setdefault(alias.name, at)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and FULL_NAME.fullmatch(node.value):
                named.setdefault(node.value, at)
            elif isinstance(node, ast.Attribute) and serves:
                attributes.setdefault(node.attr, at)
    return Uses(imported, named, attributes)


def check(old: SourceTree, new: SourceTree, hooks: Iterable[Hook], used: Uses) -> dict[str, list[Finding]]:
    """Every difference that matters to the plugin, by subject."""
    targets = {hook.target: hook for hook in hooks if hook.target.startswith("sglang.")}
    relied: dict[str, set[str]] = {name: set() for name in targets}
    for hook in hooks:
        if hook.target in relied:
            relied[hook.target].update(hook.parameters)
    findings: dict[str, list[Finding]] = {"hook targets": [], "imported or named": [], "attributes": []}
    for name in sorted(targets):
        if (finding := compare(name, old, new, relied[name])) is not None:
            findings["hook targets"].append(finding)
    for name, place in sorted((used.named | used.imported).items()):
        if name not in targets and (finding := compare(name, old, new)) is not None:
            findings["imported or named"].append(finding._replace(what=f"{finding.what} ({place})"))
    modules = sorted({_module(old, name) for name in (*targets, *used.imported)})
    anywhere = set().union(*(new.attributes(module) for module in modules))
    for module in modules:
        for name in sorted((old.attributes(module) - new.attributes(module)) & used.attributes.keys()):
            what = "is elsewhere now, or another's" if name in anywhere else "is not there"
            place = used.attributes[name]
            findings["attributes"].append(Finding(f"{module}: {name}", f"{what} ({place})", name not in anywhere))
    return findings


def _module(tree: SourceTree, name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and tree.module(".".join(parts)) is None:
        parts.pop()
    return ".".join(parts)


def report(found: dict[str, list[Finding]], diffs: bool = False) -> str:
    """The findings, one a line, those that break the plugin marked."""
    lines = []
    for concern, findings in found.items():
        lines.append(f"{concern}: {len(findings)} changed" if findings else f"{concern}: unchanged")
        for finding in findings:
            lines.append(f"  {'!' if finding.breaks else ' '} {finding.name}: {finding.what}")
            lines += [f"      {line}" for line in finding.diff[2:]] if diffs else []
    breaks = sum(finding.breaks for findings in found.values() for finding in findings)
    lines.append(f"{breaks} that must be corrected (!); the others are to be read")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="upstream-check", description=__doc__.splitlines()[0])
    parser.add_argument("new", type=Path, help="A wheel of sglang, or a folder that holds its package")
    parser.add_argument("--old", type=Path, help="What to compare with; the installed sglang by default")
    parser.add_argument("--diff", action="store_true", help="Prints what changed, without comments and docstrings")
    given = parser.parse_args(arguments)
    try:
        old = given.old
        if old is None:
            spec = importlib.util.find_spec("sglang")
            if spec is None or not spec.submodule_search_locations:
                raise InputError("sglang: is not installed; install it, or give --old")
            old = Path(next(iter(spec.submodule_search_locations))).parent
        hooks = (*launch_hooks(), *scheduler_hooks(), *policy_hooks(), *kernel_hooks(), *cpu_hooks())
        print(report(check(SourceTree(old), SourceTree(given.new), hooks, uses()), given.diff))
    except InputError as error:
        end("upstream-check", error)


if __name__ == "__main__":
    main()
