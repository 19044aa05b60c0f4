"""Recorded steps of a kind put together: the same requests, tokens and draft, and about the same context."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dspark_tuning.measuring.recording.schema import Record
from sglang_dspark.errors import InputError

CONTEXT_BINS = 8
# Steps are held out in runs of so many, since neighbours are alike.
BLOCK_STEPS = 50


def decodes(record: Record) -> pd.DataFrame:
    """Timed decode steps: requests, verify_tokens, tokens (with padding), captured, drafted, context, step_s, block.

    ``context`` is 0 where the server does not tell.

    Raises:
        InputError: There are none.
    """
    steps = _columns(record, ["requests", "verify_tokens", "tier", "drafted_tokens", "context_tokens", "queued"])
    # Where steps run as graphs a stock server tells the padded size only.
    sized = steps["verify_tokens"].notna() | steps["tier"].notna()
    timed = steps[(steps["kind"] == "decode") & (steps["step_s"] > 0) & sized]
    if timed.empty:
        raise InputError("the recording: step_s: no decode step has a time; record while the server answers requests")
    # Stock servers do not tell a step without a draft, and have none.
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
    """Timed prefill steps: requests, tokens, context, step_s, block; empty where the server records none."""
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
    """Medians by requests, tokens, draft and context, with how many steps each stands for."""
    width = max(float(steps["context"].max()) / CONTEXT_BINS, 1.0)
    keys = ["requests", "tokens", "drafted", "captured"]
    grouped = steps.assign(bin=(steps["context"] // width).astype(int)).groupby([*keys, "bin"], as_index=False)
    found: pd.DataFrame = grouped.agg(
        context=("context", "mean"), step_s=("step_s", "median"), steps=("step_s", "size")
    )
    return found


def _columns(record: Record, names: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = record.steps.select(["segment", "step", "kind", "step_s", *names]).to_pandas()
    frame["block"] = np.arange(len(frame)) // BLOCK_STEPS
    return frame
