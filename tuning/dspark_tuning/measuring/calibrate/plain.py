"""Decode steps of a server without speculation, inferred from the token times of its clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dspark_tuning.measuring.load import request_rows
from dspark_tuning.measuring.load.request import SentRequest
from sglang_dspark.errors import InputError


def steps(requests: Sequence[SentRequest], clients: int) -> pd.DataFrame:
    """Decode steps of a closed loop on a server that generates one token per step and running request.

    The gap between two tokens of a request is a decode step, or includes a prefill; the median is a decode step. Tokens
    that arrive together (SGLang's ``--stream-interval``) share their gap.

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
    """Decode steps from the files of ``dspark load``.

    Raises:
        InputError: Not a closed loop on a server without speculation.
    """
    tables = []
    for path in paths:
        kept = request_rows.read(path)
        if kept.speculative:
            raise InputError(f"plain: {path}: the server speculated; load one without --speculative-algorithm")
        if not kept.clients:
            raise InputError(f"plain: {path}: an open loop; load the server with a number of clients")
        tables.append(steps(kept.requests, kept.clients))
    return pd.concat(tables, ignore_index=True)
