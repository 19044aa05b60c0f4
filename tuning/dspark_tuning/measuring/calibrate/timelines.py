"""What a recorded server did over time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dspark_tuning.measuring.recording.schema import Record
from dspark_tuning.search.timeline import Timeline, timeline

TOLD = ["run", "segment", "kind", "ended_s", "step_s", "requests", "queued", "context_tokens", "verify_tokens"]


def timelines(record: Record) -> tuple[Timeline, ...]:
    """A timeline of each recording, of its steps with a time; NaN where the server does not tell."""
    steps = record.steps.select(TOLD).to_pandas()
    steps = steps[steps["step_s"] > 0]
    found = []
    for run, about in enumerate(record.abouts):
        pool = np.nan if about.max_total_num_tokens is None else about.max_total_num_tokens * about.dp_size
        found.append(timeline(_steps(steps[steps["run"] == run].reset_index(drop=True)), pool))
    return tuple(found)


def _steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Steps as a timeline takes them: ranks and the stretches between gaps are replicas."""
    decodes = steps["kind"] == "decode"
    # Without its clock, a server is taken to have run its steps one after another.
    ended_s = steps["ended_s"] if steps["ended_s"].notna().all() else steps["step_s"].cumsum()
    drafts = steps["verify_tokens"] - steps["requests"]

    def held(column: str) -> pd.Series:
        """What decode steps tell: it still holds while others' prompts are prefilled."""
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
    for told, column in (("context_tokens", "kv_tokens"), ("queued", "queued"), ("verify_tokens", "verified")):
        if steps.loc[decodes, told].isna().any():
            frame[column] = np.nan
    return frame
