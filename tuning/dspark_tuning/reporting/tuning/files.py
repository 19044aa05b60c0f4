"""The files of a tuning run."""

from __future__ import annotations

import json
from pathlib import Path

from dspark_tuning.reporting import tuning
from dspark_tuning.search.launch_command import POLICY, SPS_TABLE, STS
from dspark_tuning.search.tune import Outcome
from sglang_dspark.files import write_atomically
from sglang_dspark.policy import artifact
from sglang_dspark.policy.belief import sps_json


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the policy, the files of an unmodified SGLang, the report, the trials and the report set's rows.

    Everything is rendered before anything is written, and each file is written atomically. Returns the paths.

    Raises:
        InputError: The folder cannot be written.
    """
    table, temperatures = outcome.stock.belief, outcome.scenario.drafter().sts[: outcome.stock.server.gamma]
    assert table is not None, "an unmodified SGLang needs a table"
    contents: dict[str, str | bytes] = {
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
