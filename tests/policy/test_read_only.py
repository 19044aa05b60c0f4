"""A hardened container: a root that cannot be written, no home, and a user without a name.

The package is copied to a folder that cannot be written to, and imported in a process that has given up what lets root
write there all the same.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sglang_dspark import jit

ROOT = Path(__file__).parents[2]
ANOTHER = 54_321
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
USE = """
import sys, tempfile
{before}
import numpy as np
import sglang_dspark.policy
from sglang_dspark.policy.lag import unseen
{between}
survival = np.zeros(2, np.float32)
unseen(survival)
print(*survival)
print(sum(unseen.stats.cache_hits.values()))
"""


def obey_permissions() -> None:
    if os.getuid() == 0:
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0


class Container(NamedTuple):
    """Folders of the run: ``package`` is read-only, ``temporary`` is not."""

    package: Path
    temporary: Path

    def run(self, before: str = "", between: str = "", **variables: str) -> tuple[list[str], list[str]]:
        """The lines of stdout and stderr of a process that calls a compiled function."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.package), "TMPDIR": str(self.temporary)}
        done = subprocess.run(
            [sys.executable, "-B", "-c", USE.format(before=before, between=between)],
            env=environment | {"HOME": str(self.package)} | variables,
            cwd=self.package,
            capture_output=True,
            text=True,
            timeout=600,
            preexec_fn=obey_permissions,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    package, temporary = tmp_path / "package", tmp_path / "tmp"
    shutil.copytree(
        ROOT / "sglang_dspark", package / "sglang_dspark", ignore=shutil.ignore_patterns("__pycache__", "demo")
    )
    temporary.mkdir()
    temporary.chmod(0o1777)
    for path in sorted(package.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    package.chmod(0o555)
    yield Container(package, temporary)
    for path in (package, *package.rglob("*")):
        path.chmod(0o755)


SURVIVAL = "1.0 1.0"


def kept(folder: Path) -> list[Path]:
    return list(folder.rglob("*.nbc"))


def test_compiled_functions_are_kept_in_a_temporary_folder_of_the_users_own(container: Container) -> None:
    first, said = container.run()
    assert first == [SURVIVAL, "0"] and kept(container.temporary)
    assert len(said) == 1 and str(container.temporary) in said[0]
    (folder,) = container.temporary.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    again, said = container.run()
    assert again == [SURVIVAL, "1"] and len(said) == 1


@pytest.mark.parametrize("what", ["no temporary folder", "another user's", "open to others", "a link"])
def test_without_a_place_that_can_be_trusted_nothing_is_kept(container: Container, monkeypatch, what: str) -> None:
    if what == "another user's" and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    before = ""
    if what == "no temporary folder":
        before = "tempfile.tempdir = '/nonexistent'"
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(container.temporary))
        folder = jit._temporary_folder()
        assert folder is not None
        folder.rmdir()
        if what == "a link":
            (container.temporary / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(container.temporary / "elsewhere")
        else:
            folder.mkdir()
            folder.chmod(0o777)
            if what == "another user's":
                os.chown(folder, ANOTHER, ANOTHER)
                folder.chmod(0o700)
    out, said = container.run(before)
    assert out == [SURVIVAL, "0"] and not kept(container.temporary)
    assert len(said) == 1 and "NUMBA_CACHE_DIR" in said[0]


@pytest.mark.parametrize("name", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_other_places_that_cannot_be_written(container: Container, name: str) -> None:
    out, said = container.run(**{name: str(container.package / "cache")})
    assert out == [SURVIVAL, "0"] and len(said) == 1 and kept(container.temporary)


def test_a_home_is_used_without_a_word(container: Container) -> None:
    home = container.temporary / "home"
    home.mkdir()
    home.chmod(0o777)
    out, said = container.run(HOME=str(home))
    assert out == [SURVIVAL, "0"] and said == [] and kept(home)


def test_a_disk_that_fills_up_costs_the_cache_and_nothing_else(container: Container) -> None:
    full = (
        "import errno\nfrom numba.core import caching\n"
        "def full(*arguments): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "caching.IndexDataCacheFile.save = full"
    )
    out, said = container.run(between=full)
    assert out == [SURVIVAL, "0"] and not kept(container.temporary)
    assert len(said) == 2 and "No space left on device" in said[1]


def test_every_compiled_function_is_compiled_so() -> None:
    packages = ("sglang_dspark", "kernels", "simulator", "tuning")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    direct = [path.name for path in sources if "from numba import njit" in path.read_text(encoding="utf-8")]
    assert len(sources) > 200 and direct == []
