"""Steps of a server without speculation, which records none, from what its clients saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dspark_tuning.measuring.load import request_rows
from dspark_tuning.measuring.load.request import SentRequest
from sglang_dspark.errors import InputError


def steps(requests: Sequence[SentRequest], clients: int) -> pd.DataFrame:
    """A closed loop's decode steps: such a server answers every running request with one token a step.

    Gaps between a request's tokens are steps, or prefills that came between; the median is a step. Tokens that come
    together (``--stream-interval``) share their gap.

    Returns:
        One row: requests, context, step_s.

    Raises:
        InputError: No request has two tokens.
    """
    gaps = [
        np.diff(request.chunk_s) / request.chunk_tokens[1:]
        for request in requests
        if not request.error and len(request.chunk_s) > 1
    ]
    if not gaps:
        raise InputError("plain: no request has two tokens; load the server with longer outputs")
    context = np.mean([r.prompt_tokens + r.output_tokens / 2 for r in requests if not r.error])
    return pd.DataFrame(
        {
            "requests": [clients],
            "context": [clients * float(context)],
            "step_s": [float(np.median(np.concatenate(gaps)))],
        }
    )


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """Steps out of loads that ``dspark load --out`` wrote.

    Raises:
        InputError: Not a closed loop against a server without speculation.
    """
    found = []
    for path in paths:
        kept = request_rows.read(path)
        if kept.speculative:
            raise InputError(f"plain: {path}: the server speculated; load one without --speculative-algorithm")
        if not kept.clients:
            raise InputError(f"plain: {path}: an open loop; load the server with a number of clients")
        found.append(steps(kept.requests, kept.clients))
    return pd.concat(found, ignore_index=True)
