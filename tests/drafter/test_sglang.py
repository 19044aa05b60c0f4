"""Our drafter is SGLang's: the packaged checkpoint in SGLang 0.5.23's own model code gives the same outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_dspark import demo

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="sglang is not installed")
def test_forward_equals_sglang() -> None:
    # What SGLang's entry point does in a server: it must be done before the first import of sglang.
    start = "from sglang_dspark.serving.platform import activate; activate(); import runpy;"
    start += "runpy.run_module('tests.drafter.sglang_forward', run_name='__main__')"
    # In static mode SGLang leaves the confidence head out.
    environment = os.environ | {"SGLANG_USE_CPU_ENGINE": "1", "SGLANG_RAGGED_VERIFY_MODE": "compact"}
    command = [sys.executable, "-c", start, str(demo.TARGET), str(demo.DRAFT)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert set(differences) == {"hidden", "logits", "confidence"}
    assert max(differences.values()) < 2e-5, differences
