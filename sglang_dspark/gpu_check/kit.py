"""Build a folder that runs the GPU check on a machine without SGLang, installation or network (``make gpu-kit``).

It holds this tree, the wheels that ``requirements/gpu_machine.txt`` does not list, and ``run.sh STAGE``. SGLang's wheel
is stripped of its Rust servers and its image and video generation, which no stage runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from sglang_dspark.errors import InputError

STAGES: Final = ("kernels", "cost", "engine")
ROOT: Final = Path(__file__).parents[2]
TREE: Final = (
    "kernels",
    "sglang_dspark",
    "simulator",
    "tuning",
    "tests/__init__.py",
    "tests/kernels",
    "pyproject.toml",
)
LEFT_OUT: Final = ("sglang/srt/rust_extensions/*.so", "sglang/multimodal_gen/*", "sglang/test/*")
PYTHON: Final = "3.12"
# The tags of x86-64 wheels for Python 3.12.
PLATFORMS: Final = (
    "manylinux1",
    "manylinux2014",
    *(f"manylinux_2_{minor}" for minor in (17, 24, 26, 27, 28, 31, 34, 35)),
)
LIMIT_MB: Final = 60.0

RUN: Final = """\
#!/usr/bin/env bash
# run.sh STAGE...: kernels, cost, engine, or all. For each a log and an archive in $OUT (results, beside this file).
# LIMIT_S: seconds per stage (480). PYTHON: one with PyTorch for CUDA (python3). REHEARSE=1: small, on the CPU.
set -uo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || { sed -n 2,3p "$0"; exit 2; }
[ "$*" = all ] && set -- @STAGES@
python=${PYTHON:-python3} limit_s=${LIMIT_S:-480} out=${OUT:-$PWD/results} failed=0
mkdir -p "$out" work
if [ ! -d site ]; then
  for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" site.new || exit; done
  mv site.new site
fi
tree=$PWD/tree
export PYTHONPATH=$tree:$tree/kernels:$tree/simulator:$tree/tuning:$PWD/site PYTHONUNBUFFERED=1
for stage in "$@"; do
  rm -rf "work/$stage"
  timeout --kill-after=45 "$limit_s" "$python" -m "sglang_dspark.gpu_check.$stage" --out "work/$stage" \\
    --budget-s $((limit_s > 120 ? limit_s - 60 : limit_s / 2)) ${REHEARSE:+--rehearse} 2>&1 | tee "$out/$stage.log"
  code=$?
  [ -d "work/$stage" ] && tar czf "$out/$stage.tar.gz" -C work "$stage"
  echo "$stage: exit code $code; $out/$stage.log, $out/$stage.tar.gz"
  [ $code -eq 0 ] || failed=1
done
exit $failed
"""

# Imported when the kit is checked: the modules that stages and their servers import while they run.
IMPORTS: Final = (
    *(f"sglang_dspark.gpu_check.{stage}" for stage in STAGES),
    "dspark_kernels.bench.command",
    "dspark_tuning.cli",
    "sglang.launch_server",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.managers.scheduler",
    "sglang.srt.models.dspark",
    "sglang.srt.models.qwen3",
    "sglang_dspark.serving.plugin",
    "sglang_dspark.serving.evidence.upstream_calls",
)


def main(arguments: list[str] | None = None) -> int:
    """Build the kit, check it where requested, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sglang_dspark.gpu_check.kit", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/gpu-kit"), help="folder to make (default out/gpu-kit)")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help=f"largest size (default {LIMIT_MB:g})")
    parser.add_argument(
        "--check-with", metavar="PYTHON", help="an interpreter with the packages of requirements/gpu_machine.txt"
    )
    options = parser.parse_args(arguments)
    try:
        build(options.out, options.limit_mb)
        if options.check_with is not None:
            check(options.out, options.check_with)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def build(out: Path, limit_mb: float) -> None:
    """Build the folder and print its sizes.

    Raises:
        InputError: The folder exceeds ``limit_mb``, or a wheel cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "kit"
        (made / "wheels").mkdir(parents=True)
        _download(made / "wheels")
        for wheel in (made / "wheels").glob("sglang-*.whl"):
            trim(wheel, LEFT_OUT)
        _copy_tree(made / "tree")
        script = made / "run.sh"
        script.write_text(RUN.replace("@STAGES@", " ".join(STAGES)), encoding="utf-8")
        script.chmod(0o755)
        sizes = {part.name: _megabytes(part) for part in sorted(made.iterdir())}
        for name, size in sizes.items():
            print(f"{size:7.1f} MB  {name}")
        for wheel in sorted((made / "wheels").iterdir(), key=_megabytes, reverse=True)[:5]:
            print(f"{_megabytes(wheel):7.1f} MB    {wheel.name}")
        total = sum(sizes.values())
        print(f"{total:7.1f} MB  in total, of {limit_mb:g}")
        if total > limit_mb:
            raise InputError(f"limit_mb: the kit has {total:.1f} MB, more than {limit_mb:g}; raise the limit")
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, out)
    print(f"written: {out}; run on the machine: {out.name}/run.sh all")


def check(out: Path, python: str) -> None:
    """Try the stages' imports on a CPU, under an interpreter with the package versions of the kit's machine.

    Raises:
        InputError: An import fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        for wheel in sorted((out / "wheels").iterdir()):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(site)
        tree = (out / "tree").resolve()
        roots = (tree, *(tree / root for root in ("kernels", "simulator", "tuning")), site)
        path = os.pathsep.join(str(root) for root in roots)
        variables = {**os.environ, "PYTHONPATH": path, "SGLANG_USE_CPU_ENGINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        prepare = "from sglang_dspark.cpu_engine import early; early.prepare([])"
        for name in IMPORTS:
            command = [python, "-W", "ignore", "-c", f"{prepare}; import {name}"]
            run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
            if run.returncode:
                raise InputError(f"{name}: does not import under {python}: {run.stderr.strip().splitlines()[-1]}")
            print(f"imports: {name}")


def trim(wheel: Path, left_out: tuple[str, ...]) -> None:
    """Rewrite a wheel without the members that match a pattern."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as packed, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as to:
        for member in packed.infolist():
            if not any(fnmatch(member.filename, pattern) for pattern in left_out):
                to.writestr(member, packed.read(member), compress_type=zipfile.ZIP_DEFLATED)
    smaller.replace(wheel)


def missing(pins: str, machine: str) -> list[str]:
    """Return the lines of a file of pinned packages whose package is absent from a machine's list."""

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    present = {line.split("==")[0] for line in lines(machine)}
    return [line for line in lines(pins) if line.split("==")[0] not in present]


def _download(to: Path) -> None:
    pins, machine = ((ROOT / "requirements" / name).read_text("utf-8") for name in ("cpu.txt", "gpu_machine.txt"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, "--dest", str(to)]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    run = subprocess.run([*command, *missing(pins, machine)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise InputError(f"pip download: {run.stderr.strip().splitlines()[-1]}")


def _copy_tree(to: Path) -> None:
    """Copy the files of ``TREE`` that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *TREE]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise InputError(f"{ROOT}: not a git checkout, from which the kit takes its files")
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def _megabytes(part: Path) -> float:
    files = [part] if part.is_file() else [one for one in part.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files) / 1e6


if __name__ == "__main__":
    sys.exit(main())
