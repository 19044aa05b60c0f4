"""The files of a tuning run."""

from __future__ import annotations

import json
from pathlib import Path

from dspark_simulator.scenario_file import to_yaml
from dspark_tuning.reporting import tuning
from dspark_tuning.search.launch_command import LAUNCH, LAUNCH_STOCK, POLICY, SCENARIO, SPS_TABLE, STS, script
from dspark_tuning.search.tune import Outcome
from sglang_dspark.files import write_atomically
from sglang_dspark.policy import artifact
from sglang_dspark.policy.belief import sps_json


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the policy, what starts a server with or without it, the scenario, the report and the trials.

    Everything is rendered before anything is written, and each file is written atomically. Returns the paths.

    Raises:
        InputError: The folder cannot be written.
    """
    table, temperatures = outcome.stock.belief, outcome.scenario.drafter().sts[: outcome.stock.server.gamma]
    assert table is not None, "an unmodified SGLang needs a table"
    contents: dict[str, str | bytes] = {
        SCENARIO: to_yaml(outcome.scenario),
        LAUNCH: script(outcome.scenario, outcome.winner, f"{outcome.winner.name}: the recommended server."),
        LAUNCH_STOCK: script(outcome.scenario, outcome.stock, "An unmodified SGLang with tuned flags."),
        POLICY: artifact.dumps(outcome.artifact),
        SPS_TABLE: sps_json(table),
        STS: json.dumps({"temperatures": temperatures, "dataset": outcome.scenario.name}) + "\n",
        "report.html": tuning.render(outcome),
        "trials.parquet": outcome.trials.to_parquet(index=False),
        "trials.csv": outcome.trials.to_csv(index=False),
        "evidence.parquet": outcome.rows.to_parquet(index=False),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]
