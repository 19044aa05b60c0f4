"""Shell command that starts a replica with SGLang."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.search.server_flags import environment, flags
from sglang_dspark.policy import Argmax

LAUNCH = "launch.sh"
LAUNCH_STOCK = "launch_stock.sh"
SCENARIO = "scenario.yaml"
POLICY = "policy.json"
SPS_TABLE = "sps_table.json"
STS = "sts.json"
# SGLang's ``--kv-cache-dtype`` by our name.
_KV_CACHE_DTYPES: Final = {"bf16": "bf16", "fp8": "fp8_e4m3", "fp4": "nvfp4"}


def command(scenario: Scenario, arm: Arm, folder: Path = Path()) -> str:
    """Command that starts a replica with ``arm``, one flag per line.

    An unmodified SGLang reads its cost table from :data:`SPS_TABLE` and the temperatures from :data:`STS`, any other
    server its policy from :data:`POLICY`. A path of the model or of its draft that the scenario does not know is the
    shell variable MODEL or DRAFT, without which the shell refuses to start.

    Args:
        folder: Folder of those files.
    """
    return _command(scenario, arm, lambda name: shlex.quote(str(folder / name)))


def script(scenario: Scenario, arm: Arm, about: str) -> str:
    """Shell script that starts a replica with the files beside it; its own arguments are further flags of SGLang."""
    start = _command(scenario, arm, lambda name: f'"$(dirname -- "$0")"/{name}')
    return f'#!/bin/sh\n# {" ".join(about.split())}\nexec env {start} "$@"\n'


def _command(scenario: Scenario, arm: Arm, file: Callable[[str], str]) -> str:
    """The command; ``file`` writes the path of a file as the shell reads it."""
    server = arm.server
    paths = scenario.checkpoints()
    words = ["--model-path", _path(paths.model, "MODEL", f"path or Hugging Face id of {scenario.model}")]
    if scenario.gpus > 1:
        words += ["--tp", str(scenario.gpus)]
    if scenario.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", _KV_CACHE_DTYPES[scenario.kv_cache_dtype]]
    if scenario.mem_fraction_static is not None:
        words += ["--mem-fraction-static", f"{scenario.mem_fraction_static:g}"]
    variables = []
    if server.speculative:
        if not paths.bundled:
            draft = _path(paths.draft, "DRAFT", f"path or Hugging Face id of a DSpark draft of {scenario.model}")
            words += ["--speculative-draft-model-path", draft]
        variables = [f"{name}={shlex.quote(value)}" for name, value in environment(server).items()]
    words += [shlex.quote(word) for flag, value in flags(server).items() for word in (flag, *value.split())]
    if arm.policy is not None and not arm.stock:
        words += ["--speculative-dspark-policy", file(POLICY)]
    elif isinstance(arm.policy, Argmax):
        words += ["--speculative-dspark-sps-table-path", file(SPS_TABLE)]
        words += ["--speculative-dspark-confidence-sts-path", file(STS)]
        words += ["--speculative-dspark-align-verify-tokens-to-graph-tier"] * arm.policy.fill
    # One flag with its values per line.
    lines = "".join(f" \\\n  {word}" if word.startswith("--") else f" {word}" for word in words)
    return " ".join([*variables, f"python -m sglang.launch_server{lines}"])


def _path(path: str | None, variable: str, what: str) -> str:
    """The path as the shell reads it, or a variable with what to say if it is not set."""
    if path is not None:
        return shlex.quote(path)
    # Inside the braces the shell would expand other characters.
    return f'"${{{variable}:?{re.sub(r"[^a-zA-Z0-9 ./:_-]", "", what)}}}"'
