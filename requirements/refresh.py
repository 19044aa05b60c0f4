"""Resolve ``cpu.in`` with pip and print ``cpu.txt``: each package with its version, sglang without dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEADER = """\
# SGLang on a CPU, as installed by tests, CI and the demo with `pip install --no-deps`: 2.5 GB instead of the full 11.
# Resolved from cpu.in by `make pins`. PyTorch is the CPU build; if your package index has none, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""
SGLANG = "sglang==0.5.23"

command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
resolved = subprocess.run([*command, "-r", str(Path(__file__).with_name("cpu.in"))], check=True, stdout=subprocess.PIPE)
packages = [item["metadata"] for item in json.loads(resolved.stdout)["install"]]
# PyPI's PyTorch for Linux depends on CUDA packages.
if cuda := [package["name"] for package in packages if package["name"].lower().startswith(("nvidia-", "cuda-"))]:
    sys.exit(
        f"{cuda[0]}: belongs to the CUDA build of PyTorch; set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    )
pins = [f"{package['name'].lower().replace('_', '-')}=={package['version'].split('+')[0]}" for package in packages]
print(HEADER + "\n".join(sorted({*pins, SGLANG})))
