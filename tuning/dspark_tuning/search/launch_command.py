"""The command that starts a replica."""

from __future__ import annotations

import shlex
from pathlib import Path

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.search.server_flags import environment, flags
from sglang_dspark.policy import Argmax

POLICY = "policy.json"
SPS_TABLE = "sps_table.json"
STS = "sts.json"
MODEL = "MODEL"


def command(scenario: Scenario, arm: Arm) -> str:
    """Starts a replica that serves ``arm``, a flag a line; files are in the working directory.

    An unmodified SGLang has its belief in :data:`SPS_TABLE` and the drafter's temperatures in :data:`STS`, any other
    server its policy in :data:`POLICY`. DRAFT stands for the DSpark draft, and :data:`MODEL` for a model whose path is
    not known.
    """
    server = arm.server
    words = ["python", "-m", "sglang.launch_server", "--model-path", model_path(scenario.model)]
    if scenario.gpus > 1:
        words += ["--tp", str(scenario.gpus)]
    variables = []
    if server.speculative:
        words += ["--speculative-draft-model-path", "DRAFT"]
        variables = [f"{name}={shlex.quote(value)}" for name, value in environment(server).items()]
    words += [word for flag, value in flags(server).items() for word in (flag, *value.split())]
    if arm.policy is not None and not arm.stock:
        words += ["--speculative-dspark-policy", POLICY]
    elif isinstance(arm.policy, Argmax):
        words += ["--speculative-dspark-sps-table-path", SPS_TABLE, "--speculative-dspark-confidence-sts-path", STS]
        words += ["--speculative-dspark-align-verify-tokens-to-graph-tier"] * arm.policy.fill
    # A flag and its values on a line.
    return " ".join([*variables, shlex.join(words).replace(" --", " \\\n  --")])


def model_path(model: str) -> str:
    """A path, or an id with its owner; :data:`MODEL` for a shape that is known by its name or its config.json alone."""
    path = Path(model)
    folder = path.parent if path.suffix == ".json" else path
    if any(folder.glob("*.safetensors")):
        return str(folder)
    return model if "/" in model and path.suffix != ".json" else MODEL
