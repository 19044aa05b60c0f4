"""Recorded steps as tables, and grouped into cells of equal requests, tokens and draft and similar context."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dspark_tuning.measuring.recording.schema import Record
from sglang_dspark.errors import InputError

CONTEXT_BINS = 8
# Steps are held out in blocks of this size, since neighbours are correlated.
BLOCK_STEPS = 50


def decodes(record: Record) -> pd.DataFrame:
    """Timed decode steps: requests, verify_tokens, tokens (with padding), captured, drafted, context, step_s, block.

    ``context`` is 0 if the server does not report it.

    Raises:
        InputError: There are no timed decode steps.
    """
    steps = _columns(record, ["requests", "verify_tokens", "tier", "drafted_tokens", "context_tokens", "queued"])
    # For steps that run as graphs an unmodified server reports only the padded size.
    sized = steps["verify_tokens"].notna() | steps["tier"].notna()
    timed = steps[(steps["kind"] == "decode") & (steps["step_s"] > 0) & sized]
    if timed.empty:
        raise InputError("the recording: step_s: no decode step has a time; record while the server serves requests")
    # An unmodified server drafts in every step and does not report it.
    drafted = timed["drafted_tokens"].fillna(1) > 0
    return pd.DataFrame(
        {
            "requests": timed["requests"].astype(int),
            "verify_tokens": timed["verify_tokens"].fillna(timed["tier"]).astype(int),
            "tokens": timed["tier"].fillna(timed["verify_tokens"]).astype(int),
            "captured": timed["tier"].notna(),
            "drafted": drafted,
            "context": timed["context_tokens"].fillna(0.0).astype(float),
            "step_s": timed["step_s"].astype(float),
            "block": timed["block"],
        }
    ).reset_index(drop=True)


def prefills(record: Record) -> pd.DataFrame:
    """Timed prefill steps: requests, tokens, context, step_s, block; empty if the server does not record prefill."""
    steps = _columns(record, ["requests", "prefill_tokens", "context_tokens"])
    timed = steps[(steps["kind"] == "prefill") & steps["step_s"].notna() & (steps["prefill_tokens"] > 0)]
    return pd.DataFrame(
        {
            "requests": timed["requests"].astype(int),
            "tokens": timed["prefill_tokens"].astype(int),
            "context": timed["context_tokens"].fillna(0.0).astype(float),
            "step_s": timed["step_s"].astype(float),
            "block": timed["block"],
        }
    ).reset_index(drop=True)


def cells(steps: pd.DataFrame) -> pd.DataFrame:
    """Median step time and number of steps by requests, tokens, draft and context."""
    width = max(float(steps["context"].max()) / CONTEXT_BINS, 1.0)
    keys = ["requests", "tokens", "drafted", "captured"]
    grouped = steps.assign(bin=(steps["context"] // width).astype(int)).groupby([*keys, "bin"], as_index=False)
    medians: pd.DataFrame = grouped.agg(
        context=("context", "mean"), step_s=("step_s", "median"), steps=("step_s", "size")
    )
    return medians


def _columns(record: Record, names: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = record.steps.select(["segment", "step", "kind", "step_s", *names]).to_pandas()
    frame["block"] = np.arange(len(frame)) // BLOCK_STEPS
    return frame
