"""Resolves ``cpu.in`` with pip and prints ``cpu.txt``: every package with its version, and sglang without its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEADER = """\
# SGLang without a GPU: what tests, CI and the demo install, with `pip install --no-deps`.
# 2.5 GB, where the full set has 11. Resolved from cpu.in by `make pins`.
# PyTorch is the CPU build: where pip has no such wheel, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""
SGLANG = "sglang==0.5.23"

command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
found = subprocess.run([*command, "-r", str(Path(__file__).with_name("cpu.in"))], check=True, stdout=subprocess.PIPE)
packages = [item["metadata"] for item in json.loads(found.stdout)["install"]]
# PyPI's own build of PyTorch for Linux brings CUDA with it.
if cuda := [package["name"] for package in packages if package["name"].lower().startswith(("nvidia-", "cuda-"))]:
    sys.exit(f"{cuda[0]}: not for a CPU; set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu")
pins = [f"{package['name'].lower().replace('_', '-')}=={package['version'].split('+')[0]}" for package in packages]
print(HEADER + "\n".join(sorted({*pins, SGLANG})))
