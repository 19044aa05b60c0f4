"""The files of a tuning run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dspark_tuning import report
from dspark_tuning.launch import POLICY, SPS_TABLE, STS
from dspark_tuning.tune import Outcome
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically
from sglang_dspark.policy import artifact
from sglang_dspark.policy.belief import sps_json


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Writes the policy, the files of an unmodified SGLang, the report, the trials and the report set's rows.

    Returns what was written.

    Everything is rendered before anything is written, and each file is there whole or not at all.

    Raises:
        InputError: The folder cannot be written.
    """
    table, temperatures = outcome.stock.belief, outcome.scenario.drafter().sts[: outcome.stock.server.gamma]
    assert table is not None, "an unmodified SGLang takes a table"
    contents: dict[str, str | bytes] = {
        POLICY: artifact.dumps(outcome.artifact),
        SPS_TABLE: sps_json(table),
        STS: json.dumps({"temperatures": temperatures, "dataset": outcome.scenario.name}) + "\n",
        "report.html": report.render(outcome),
        "trials.parquet": outcome.trials.to_parquet(index=False),
        "trials.csv": outcome.trials.to_csv(index=False),
        "evidence.parquet": outcome.rows.to_parquet(index=False),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def check_writable(folder: Path) -> None:
    """Refuses a folder that could not be written at the end, before any time is spent; creates nothing.

    Raises:
        InputError: It is a file, or it or the folder that it would be made in is not writable.
    """

    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out: {folder}: cannot be written; choose another folder")
