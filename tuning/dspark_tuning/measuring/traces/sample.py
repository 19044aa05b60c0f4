"""A smaller trace that is as bursty as the whole."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_simulator.workloads.traces import FORMATS, TraceRows
from dspark_tuning.measuring.traces.statistics import gap_cv
from sglang_dspark.errors import InputError

_WINDOWS = 256


def window(rows: TraceRows, requests: int, seed: int) -> slice:
    """Successive requests of a trace that resemble the whole.

    A window keeps the gaps, their order and the reuse of prefixes. Thinning keeps none of them: with a share p of the
    requests the squared coefficient of variation of independent gaps goes from c to 1 + p (c - 1), towards Poisson. Of
    windows at random places, the one is taken whose variation of gaps, rate and mean lengths are nearest to the
    whole trace's.

    Args:
        requests: Length of the window.
        seed: Determines the places.

    Raises:
        InputError: The trace has fewer requests, or the window is too short to have a variation of gaps.
    """
    if not 3 <= requests <= len(rows.time_s):
        raise InputError(f"requests: {requests} is not valid; give a number from 3 to {len(rows.time_s)}")
    starts = np.random.default_rng(seed).integers(0, len(rows.time_s) - requests, _WINDOWS, endpoint=True)
    whole = _properties(rows, slice(None))
    places = [slice(int(start), int(start) + requests) for start in np.unique(starts)]
    distances = [np.sum((_properties(rows, place) - whole) ** 2) for place in places]
    # A window of requests that arrive at once has no variation, NaN.
    return places[int(np.argmin(np.nan_to_num(distances, nan=np.inf)))]


def dumps(rows: TraceRows, place: slice) -> str:
    """Part of a trace as a file: a plain table, or JSON lines where it has prefix hashes.

    Raises:
        InputError: Prefix hashes in blocks that no format has.
    """
    time_s = rows.time_s[place] - rows.time_s[place.start]
    if rows.blocks is None:
        columns: dict[str, Any] = {
            "arrival_s": np.round(time_s, 9),
            "prompt_tokens": rows.prompt[place],
            "output_tokens": rows.output[place],
        }
        if rows.slo_class is not None:
            columns["class"] = np.array(rows.class_names, object)[rows.slo_class[place]]
        if rows.cached is not None:
            columns["cached_tokens"] = rows.cached[place]
        return pd.DataFrame(columns).to_csv(index=False)
    formats = {member.block_tokens: member.name for member in FORMATS.values() if member.block_tokens}
    written = formats.get(rows.blocks.tokens)
    if written is None:
        raise InputError(f"block_tokens: no format has blocks of {rows.blocks.tokens}; those have {sorted(formats)}")
    out = io.StringIO()
    for offset, request in enumerate(range(place.start, place.stop)):
        row: dict[str, Any] = {} if written == "mooncake" else {"chat_id": request}
        row |= {
            "timestamp": round(float(time_s[offset]) * (1e3 if written == "mooncake" else 1.0), 6),
            "input_length": int(rows.prompt[request]),
            "output_length": int(rows.output[request]),
            "hash_ids": rows.blocks.of(request).tolist(),
        }
        out.write(json.dumps(row) + "\n")
    return out.getvalue()


def _properties(rows: TraceRows, place: slice) -> NDArray[np.float64]:
    """Logarithms of the variation of gaps, which counts most, of the mean gap and of the mean lengths."""
    time_s = rows.time_s[place]
    gap_s = (time_s[-1] - time_s[0]) / (len(time_s) - 1)
    means = [rows.prompt[place].mean(), rows.output[place].mean()]
    # Equal gaps have a variation of 0.
    properties: NDArray[np.float64] = np.log(np.maximum([gap_cv(time_s), gap_s, *means], 1e-9)) * [3.0, 1.0, 1.0, 1.0]
    return properties
