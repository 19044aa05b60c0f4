"""SGLang 0.5.23 reads our checkpoints, and its model classes give the same outputs as ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="sglang is not installed")
def test_forward_equals_sglang() -> None:
    # What SGLang's entry point does in a server: it must be done before the first import of sglang.
    start = "from sglang_dspark.serving.platform import activate; activate(); import runpy;"
    start += "runpy.run_module('tests.drafter.sglang_forward', run_name='__main__')"
    # In static mode SGLang leaves the confidence head out.
    environment = os.environ | {"SGLANG_USE_CPU_ENGINE": "1", "SGLANG_RAGGED_VERIFY_MODE": "compact"}
    command = [sys.executable, "-c", start]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    compared = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    block = {"hidden", "logits", "confidence"}
    assert {name: set(found) for name, found in compared.items()} == {
        "demo": block,
        "dspark-gated": block,
        "dspark-rnn": block,
        "dflash": {"hidden", "drafts"},
        "eagle3": {"drafts", "first"},
        "done": set(),
    }
    for name, differences in compared.items():
        assert max(differences.values(), default=0.0) < 5e-5, (name, differences)
