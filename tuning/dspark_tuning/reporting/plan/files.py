"""The files of a plan: launch script, policy, JSON and report."""

from __future__ import annotations

import json
from pathlib import Path

from dspark_simulator.scenario_file import to_yaml
from dspark_tuning.planning import tuned
from dspark_tuning.planning.launch_script import launch
from dspark_tuning.planning.plan import Planned
from dspark_tuning.reporting.jsonable import jsonable
from dspark_tuning.reporting.plan import page
from dspark_tuning.reporting.plan.as_json import as_json
from dspark_tuning.reporting.plan.tables import answer
from dspark_tuning.search.artifact import artifact_of
from dspark_tuning.search.launch_command import LAUNCH, POLICY, SCENARIO
from sglang_dspark.files import write_atomically
from sglang_dspark.policy import artifact


def write(planned: Planned, folder: Path, command: str, trials: int, seed: int) -> list[Path]:
    """Write plan.json and report.html, and for a chosen plan its policy, launch script and scenario; return the paths.

    The scenario is one replica at its part of the traffic, or all replicas where the router decides that.

    Everything is rendered before anything is written, and each file is written atomically.

    Args:
        command: Reproduces the plan.

    Raises:
        InputError: The folder cannot be written.
    """
    contents = {
        "plan.json": json.dumps(jsonable(as_json(planned)), indent=1, allow_nan=False) + "\n",
        "report.html": page.render(planned, command, trials, seed),
    }
    chosen, proof = planned.chosen, planned.proof
    if chosen is not None and proof is not None:
        searched = tuned.searched(trials, seed)
        searched.seeds["report"] = list(proof.seeds)
        made = artifact_of(
            proof.scenario, tuned.space_of(chosen.scenario), chosen.arm, searched, proof.versus, answer(planned)
        )
        contents[POLICY] = artifact.dumps(made)
        contents[LAUNCH] = launch(chosen)
        contents[SCENARIO] = to_yaml(proof.scenario)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    for name in {POLICY, LAUNCH, SCENARIO} - contents.keys():
        # Remove files of an earlier run that this plan does not have.
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in contents]
