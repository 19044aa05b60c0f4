"""The version check on two made-up versions of SGLang, one in a folder and one in a wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.serving.evidence.upstream_check import Finding, check, main, report, uses
from sglang_dspark.serving.hooks import Hook
from sglang_dspark.serving.source_tree import SourceTree

OLD = {
    "sglang/__init__.py": "",
    "sglang/srt/__init__.py": "",
    "sglang/srt/planner.py": '''
import msgspec
from sglang.srt.base import Base
from sglang.srt.shared import helper

class Planner(Base):
    """Decides."""
    tiers: list = ()

    def __init__(self, gamma, *, device):
        self._carry = gamma
        self._ring = device

    def budget(self, confidence, generation=None):
        """Says how much."""
        return confidence

    def same(self, x):
        # A comment.
        return x

    def gone(self, x):
        return x

    def renamed(self, *, batch, future_map):
        return batch

Planner = msgspec.defstruct("Planner", vars(Planner))
''',
    "sglang/srt/base.py": "class Base:\n    def inherited(self, a):\n        return a\n",
    "sglang/srt/shared.py": "def helper(a, b=1):\n    return a\n\nLIMIT = 3\n\ndef dropped():\n    return 1\n",
}
NEW = OLD | {
    "sglang/srt/planner.py": '''
import msgspec
from .base import Base
from .shared import helper

class Planner(Base):
    """Decides, in other words."""
    tiers: list = ()

    def __init__(self, gamma, *, device):
        self._ring = device

    def budget(self, confidence, generation=0, *, extra=None):
        return confidence

    def same(self, x):
        """Now with a docstring."""
        return x

    def renamed(self, *, batch, futures):
        return batch

Planner = msgspec.defstruct("Planner", vars(Planner))
''',
    "sglang/srt/base.py": "class Base:\n    def inherited(self, a):\n        return a + 1\n",
    "sglang/srt/shared.py": """
try:
    import fast
except ImportError:
    def helper(a, b=2):
        return a

LIMIT = 4
""",
}
OURS = """
def attach(planner):
    from sglang.srt.shared import LIMIT, dropped, helper
    planner._carry, planner._ring, planner.tiers, planner.ours
    return "sglang.srt.planner.Planner.same"
"""
PLANNER = "sglang.srt.planner.Planner"


@pytest.fixture
def trees(tmp_path: Path) -> tuple[SourceTree, SourceTree]:
    for name, text in OLD.items():
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "new.whl", "w") as wheel:
        for name, text in NEW.items():
            wheel.writestr(name, text)
    return SourceTree(tmp_path / "old"), SourceTree(tmp_path / "new.whl")


@pytest.fixture
def found(trees: tuple[SourceTree, SourceTree], tmp_path: Path) -> dict[str, list[Finding]]:
    package = tmp_path / "ours" / "serving"
    package.mkdir(parents=True)
    (package / "engine.py").write_text(OURS)
    relied = {
        "__init__": ("gamma",),
        "budget": ("confidence", "generation"),
        "same": ("x",),
        "gone": ("x",),
        "renamed": ("batch", "future_map"),
        "inherited": ("a",),
    }
    hooks = [Hook(f"{PLANNER}.{name}", "around", print, names, "") for name, names in relied.items()]
    hooks += [Hook("torch.Tensor.record_stream", "around", print, (), "")]
    return check(*trees, hooks, uses(package.parent))


def test_targets_are_compared_by_what_runs(found: dict[str, list[Finding]]) -> None:
    said = {f.name.removeprefix(f"{PLANNER}."): (f.what, f.breaks) for f in found["hook targets"]}
    assert said == {
        "__init__": ("its body changed", False),
        "budget": ("parameters: +extrakeyword=None, generation=None -> generation=0", False),
        "gone": ("is not there", True),
        "inherited": ("its body changed", False),
        "renamed": ("parameters: -future_map, +futureskeyword", True),
    }


def test_imports_and_names_are_followed_to_their_definition(found: dict[str, list[Finding]]) -> None:
    said = {f.name.removeprefix("sglang.srt.shared."): (f.what, f.breaks) for f in found["imported or named"]}
    assert said == {
        "LIMIT": ("its value changed (ours/serving/engine.py:3)", False),
        "dropped": ("is not there (ours/serving/engine.py:3)", True),
        "helper": ("parameters: b=1 -> b=2 (ours/serving/engine.py:3)", False),
    }


def test_attributes_that_are_looked_up_and_gone_are_named(found: dict[str, list[Finding]]) -> None:
    assert [(f.name, f.breaks) for f in found["attributes"]] == [("sglang.srt.planner: _carry", True)]


def test_the_report_marks_what_breaks_and_shows_changes_if_asked(found: dict[str, list[Finding]]) -> None:
    text = report(found)
    assert f"  ! {PLANNER}.gone: is not there" in text and f"    {PLANNER}.__init__: its body changed" in text
    assert text.endswith("4 that must be corrected (!); the others are to be read")
    assert "self._carry = gamma" not in text
    assert "      -    self._carry = gamma" in report(found, diffs=True)


def test_a_version_is_equal_to_itself(trees: tuple[SourceTree, SourceTree], tmp_path: Path) -> None:
    hooks = [Hook(f"{PLANNER}.budget", "around", print, ("confidence",), "")]
    assert not any(check(trees[1], trees[1], hooks, uses(tmp_path)).values())


def test_the_installed_version_has_all_that_the_plugin_relies_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the table, this package and the real SGLang: what the check cannot find, it could not compare."""
    import sglang

    folder = Path(next(iter(sglang.__path__))).parent
    main([str(folder)])
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 that must be corrected")
    tree, used = SourceTree(folder), uses()
    missing = [name for name in used.imported if tree.find(name) is None and tree.module(name) is None]
    assert missing == [] and len(used.imported) > 20


@pytest.mark.parametrize("content", [None, b"", b"PK not a wheel"])
def test_what_is_no_version_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "sglang.whl"
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{place}: "):
        SourceTree(place)


def test_source_of_a_newer_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "later.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"^sglang\.later: .*newer Python"):
        SourceTree(tmp_path).find("sglang.later.f")
