"""Timelines of recorded servers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dspark_tuning.measuring.recording.schema import Record
from dspark_tuning.search.timeline import Timeline, timeline

COLUMNS = ["run", "segment", "kind", "ended_s", "step_s", "requests", "queued", "context_tokens", "verify_tokens"]


def timelines(record: Record) -> tuple[Timeline, ...]:
    """Timeline of each recording from its timed steps; NaN where the server does not report a column."""
    steps = record.steps.select(COLUMNS).to_pandas()
    steps = steps[steps["step_s"] > 0]
    of_runs = []
    for run, about in enumerate(record.abouts):
        pool = np.nan if about.max_total_num_tokens is None else about.max_total_num_tokens * about.dp_size
        of_runs.append(timeline(_steps(steps[steps["run"] == run].reset_index(drop=True)), pool))
    return tuple(of_runs)


def _steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Columns of a timeline; every rank, and every segment between gaps of the recording, is a replica."""
    decodes = steps["kind"] == "decode"
    # Without clock times, steps are assumed to be consecutive.
    ended_s = steps["ended_s"] if steps["ended_s"].notna().all() else steps["step_s"].cumsum()
    drafts = steps["verify_tokens"] - steps["requests"]

    def held(column: str) -> pd.Series:
        """Value of the last decode step, which still holds during a prefill."""
        return steps[column].where(decodes).groupby(steps["segment"]).ffill().fillna(0)

    frame = pd.DataFrame(
        {
            "replica": steps["segment"],
            "start_s": ended_s - steps["step_s"],
            "step_s": steps["step_s"],
            "running": held("requests"),
            "queued": held("queued"),
            "kv_tokens": held("context_tokens"),
            "decoded": steps["requests"].where(decodes, 0),
            "verified": drafts.where(decodes, 0),
        }
    ).astype(float)
    for source, column in (("context_tokens", "kv_tokens"), ("queued", "queued"), ("verify_tokens", "verified")):
        if steps.loc[decodes, source].isna().any():
            frame[column] = np.nan
    return frame
