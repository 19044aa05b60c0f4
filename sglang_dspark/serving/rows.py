"""Steps as the rows of a table: what the recorder writes to files and the stream hands out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sglang_dspark.serving.live import Mode, Outcome, Prefilled, Row, Step, tempered

SCHEMA: Final = pa.schema(
    [
        ("step", pa.int64()),
        ("kind", pa.string()),
        ("ended_s", pa.float64()),
        ("step_s", pa.float64()),
        ("mode", pa.string()),
        ("policy_version", pa.int32()),
        ("requests", pa.int32()),
        ("queued", pa.int32()),
        ("context_tokens", pa.int64()),
        ("prefill_tokens", pa.int32()),
        ("drafted_tokens", pa.int32()),
        ("verify_tokens", pa.int32()),
        ("accepted_tokens", pa.int32()),
        ("budget", pa.int32()),
        ("policy_budget", pa.int32()),
        ("upstream_budget", pa.int32()),
        ("tier", pa.int32()),
        ("rid", pa.list_(pa.string())),
        ("context", pa.list_(pa.int64())),
        ("slo_class", pa.list_(pa.int32())),
        ("verify_length", pa.list_(pa.int32())),
        ("accepted_length", pa.list_(pa.int32())),
        ("confidence", pa.list_(pa.float32())),
    ]
)
"""One row a step, ``decode`` or ``prefill``; a prefill leaves empty what only a decode step has.

``step`` counts from the server's start, without gaps. ``step_s`` is from the end of the step before, null after the
server idled. ``context_tokens`` were there before the step, ``prefill_tokens`` are computed by it. ``verify_tokens``
counts anchors and no padding, ``tier`` the tokens that ran with padding, null where no graph did. ``budget`` is the one
that was applied, ``policy_budget`` ours and ``upstream_budget`` SGLang's, where they were computed. ``verify_length``
is drafts, ``accepted_length`` tokens of the round, the target's own included. ``slo_class`` points into the list of
classes that goes with the table. ``confidence`` is R * gamma values, a request's block together, without temperature
scaling; null without a draft.
"""


# Not Arrow's own, which imports pandas.
_DTYPES: Final = {pa.int32(): np.int32, pa.int64(): np.int64, pa.float32(): np.float32}


def table(rows: Iterable[Row], classes: list[str]) -> pa.Table:
    """Steps as a table of ``SCHEMA``.

    Args:
        classes: What ``slo_class`` points into; names that it does not have yet are added.
    """
    found = [_prefilled(row) if isinstance(row, Prefilled) else _decoded(*row, classes) for row in rows]
    return pa.table({field.name: _column([row.get(field.name) for row in found], field.type) for field in SCHEMA})


def requests_of(row: Row) -> int:
    """How many requests a recorded step or prefill has."""
    return len(row.prefill.rids if isinstance(row, Prefilled) else row[0].rids)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; lists are joined by NumPy, as Arrow would take their elements one by one."""
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    present = [value for value in values if value is not None]
    if pa.types.is_string(kind.value_type):
        joined = pa.array([text for value in present for text in value], kind.value_type)
    else:
        none = np.zeros(0, _DTYPES[kind.value_type])
        joined = pa.array(np.concatenate([none, *present]), kind.value_type)
    missing = pa.array([value is None for value in values])
    return pa.ListArray.from_arrays(pa.array(offsets), joined, type=kind, mask=missing)


def _decoded(step: Step, outcome: Outcome, classes: list[str]) -> dict[str, Any]:
    load, now, requests = step.load, step.in_force, len(step.load.context)
    ours = None if step.budget is None else step.budget.cap
    return {
        "step": outcome.number,
        "kind": "decode",
        "ended_s": outcome.ended_s,
        "step_s": _known(outcome.elapsed_s),
        "mode": step.mode.name.lower(),
        "policy_version": now.version,
        "requests": requests,
        "queued": load.queued,
        "context_tokens": int(load.context.sum()),
        "drafted_tokens": now.artifact.gamma * requests if step.drafted else 0,
        "verify_tokens": int(outcome.verified.sum()) + requests,
        "accepted_tokens": int(outcome.accepted.sum()),
        "budget": ours if step.steers else step.upstream_cap,
        "policy_budget": ours,
        "upstream_budget": step.upstream_cap,
        "tier": step.tier,
        "rid": step.rids,
        "context": load.context,
        "slo_class": _places(now.artifact.classes, classes)[load.slo_class],
        "verify_length": outcome.verified,
        "accepted_length": outcome.accepted + 1,
        "confidence": _raw(step, outcome),
    }


def _prefilled(row: Prefilled) -> dict[str, Any]:
    prefill = row.prefill
    return {
        "step": row.number,
        "kind": "prefill",
        "ended_s": row.ended_s,
        "step_s": _known(row.elapsed_s),
        "mode": prefill.mode.name.lower(),
        "policy_version": prefill.version,
        "requests": len(prefill.rids),
        "queued": prefill.queued,
        "context_tokens": prefill.context_tokens,
        "prefill_tokens": prefill.tokens,
        "rid": prefill.rids,
    }


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _places(names: tuple[str, ...], classes: list[str]) -> NDArray[np.int32]:
    """int32 [names]: where each name is in ``classes``."""
    classes.extend(name for name in names if name not in classes)
    return np.array([classes.index(name) for name in names], np.int32)


def _raw(step: Step, outcome: Outcome) -> NDArray[np.float32] | None:
    """float32 [R * gamma]: the confidences as the head gives them."""
    if outcome.confidence is None or step.confidence is None:
        return None
    if step.mode is not Mode.ON:
        return step.confidence.numpy().reshape(-1)  # Upstream's, which has no temperatures.
    temperatures = np.asarray(step.in_force.artifact.sts_temperatures)
    if (temperatures == 1).all():
        return outcome.confidence.reshape(-1)
    return tempered(outcome.confidence, 1 / temperatures).reshape(-1)
