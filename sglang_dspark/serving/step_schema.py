"""Columns of recorded steps: one row a step, ``decode`` or ``prefill``.

A running server hands out and writes :data:`STREAM` (``step_table``); ``dspark record`` keeps it as :data:`RECORDING`,
which a stock server's steps fill as well. A column that does not apply to a row, or that a server does not report, is
null there.

- ``step`` counts from the server's start, without gaps. ``segment`` grows at every gap in a recording; no difference is
  taken across it.
- ``kind`` is ``decode`` or ``prefill``; ``mode`` is ``on``, ``shadow`` or ``off`` of a policy, or ``upstream``.
- ``ended_s`` is the server's monotonic clock; ``step_s`` is since the end of the step before, null where that is not
  known or the server idled between; ``draft_s`` and ``verify_s`` are GPU time.
- ``requests`` run in the step (decode) or are prefilled by it; ``queued`` wait. ``context_tokens`` are the requests' KV
  tokens before the step, and ``prefill_tokens`` what a prefill computes, without what was cached.
- ``drafted_tokens`` is 0 in a step without a draft. ``verify_tokens`` counts anchors and no padding, ``tier`` is what
  ran with padding (null where no graph did). ``budget`` counts drafts and is the one that was applied,
  ``policy_budget`` the policy's and ``upstream_budget`` SGLang's, where they were computed.
- Lists are by request. ``slo_class`` are places in the list of classes that goes with the table, ``verify_length``
  counts drafts, ``accepted_length`` counts the tokens of the round, the target's own included. ``confidence`` is
  R * gamma values, a request's block together: the sigmoid of the head's logit, without temperature scaling.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

FIELDS: Final[dict[str, pa.DataType]] = {
    "segment": pa.int32(),
    "step": pa.int64(),
    "kind": pa.string(),
    "ended_s": pa.float64(),
    "step_s": pa.float64(),
    "draft_s": pa.float64(),
    "verify_s": pa.float64(),
    "mode": pa.string(),
    "policy_version": pa.int32(),
    "requests": pa.int32(),
    "queued": pa.int32(),
    "context_tokens": pa.int64(),
    "prefill_tokens": pa.int32(),
    "drafted_tokens": pa.int32(),
    "verify_tokens": pa.int32(),
    "accepted_tokens": pa.int32(),
    "budget": pa.int32(),
    "policy_budget": pa.int32(),
    "upstream_budget": pa.int32(),
    "tier": pa.int32(),
    "rid": pa.list_(pa.string()),
    "context": pa.list_(pa.int64()),
    "slo_class": pa.list_(pa.int32()),
    "verify_length": pa.list_(pa.int32()),
    "accepted_length": pa.list_(pa.int32()),
    "confidence": pa.list_(pa.float32()),
}

_OFFLINE: Final = ("segment", "draft_s", "verify_s")
STREAM: Final = pa.schema([(name, kind) for name, kind in FIELDS.items() if name not in _OFFLINE])

_ALWAYS: Final = ("segment", "step", "kind", "mode", "requests")
RECORDING: Final = pa.schema(
    [
        pa.field(name, FIELDS[name], nullable=name not in _ALWAYS)
        for name in (
            *("segment", "step", "kind", "ended_s", "step_s", "draft_s", "verify_s", "mode", "requests", "queued"),
            *("context_tokens", "drafted_tokens", "verify_tokens", "budget", "tier", "prefill_tokens"),
            *("rid", "context", "slo_class", "verify_length", "accepted_length", "confidence"),
        )
    ]
)
