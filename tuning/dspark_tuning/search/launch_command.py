"""Shell command that starts a replica with SGLang."""

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
    """Command that starts a replica with ``arm``, one flag per line; files are in the working directory.

    An unmodified SGLang reads its cost table from :data:`SPS_TABLE` and the temperatures from :data:`STS`, any other
    server its policy from :data:`POLICY`. DRAFT stands for the path of the DSpark draft, :data:`MODEL` for an unknown
    path of the model.
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
    # One flag with its values per line.
    return " ".join([*variables, shlex.join(words).replace(" --", " \\\n  --")])


def model_path(model: str) -> str:
    """Local path or Hugging Face id of a model; :data:`MODEL` if only its shape or its config.json is known."""
    path = Path(model)
    folder = path.parent if path.suffix == ".json" else path
    if any(folder.glob("*.safetensors")):
        return str(folder)
    return model if "/" in model and path.suffix != ".json" else MODEL
