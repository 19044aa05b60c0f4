"""Ended steps as rows of a table: what the recorder writes to files and the stream hands out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sglang_dspark.serving.live_policy import tempered
from sglang_dspark.serving.step_schema import STREAM
from sglang_dspark.serving.steps import Ended, EndedPrefill, EndedStep, Mode, Step, StepResult

# Not Arrow's own, which imports pandas.
_DTYPES: Final = {pa.int32(): np.int32, pa.int64(): np.int64, pa.float32(): np.float32}


def table(ended: Iterable[Ended], classes: list[str]) -> pa.Table:
    """Convert steps to a table of ``step_schema.STREAM``.

    Args:
        classes: Class names that ``slo_class`` points into; missing names are appended.
    """
    rows = [_prefill_row(each) if isinstance(each, EndedPrefill) else _step_row(each, classes) for each in ended]
    return pa.table({field.name: _column([row.get(field.name) for row in rows], field.type) for field in STREAM})


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
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), joined, type=kind, mask=missing)


def _step_row(ended: EndedStep, classes: list[str]) -> dict[str, Any]:
    step, result = ended
    load, requests = step.load, len(step.load.context)
    budget = None if step.budget is None else step.budget.cap
    names: tuple[str, ...] = ("default",)
    version = 0
    if step.in_force is not None:
        names, version = step.in_force.artifact.classes, step.in_force.version
    return {
        "step": result.number,
        "kind": "decode",
        "ended_s": result.ended_s,
        "step_s": _known(result.elapsed_s),
        "mode": step.mode.name.lower(),
        "policy_version": version,
        "requests": requests,
        "queued": load.queued,
        "context_tokens": int(load.context.sum()),
        "drafted_tokens": step.gamma * requests if step.drafted else 0,
        "verify_tokens": int(result.verified.sum()) + requests,
        "accepted_tokens": int(result.accepted.sum()),
        "budget": budget if step.steers else step.upstream_cap,
        "policy_budget": budget,
        "upstream_budget": step.upstream_cap,
        "tier": step.tier,
        "rid": step.rids,
        "context": load.context,
        "slo_class": _places(names, classes)[load.slo_class],
        "verify_length": result.verified,
        "accepted_length": result.accepted + 1,
        "confidence": _unscaled(step, result),
    }


def _prefill_row(ended: EndedPrefill) -> dict[str, Any]:
    prefill = ended.prefill
    return {
        "step": ended.number,
        "kind": "prefill",
        "ended_s": ended.ended_s,
        "step_s": _known(ended.elapsed_s),
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
    """int32 [names]: the place of each name in ``classes``."""
    classes.extend(name for name in names if name not in classes)
    return np.array([classes.index(name) for name in names], np.int32)


def _unscaled(step: Step, result: StepResult) -> NDArray[np.float32] | None:
    """float32 [R * gamma]: the confidences as the head gives them, without STS temperatures."""
    if result.confidence is None or step.confidence is None:
        return None
    if step.mode is not Mode.ON or step.in_force is None:
        return step.confidence.numpy().reshape(-1)
    temperatures = np.asarray(step.in_force.artifact.sts_temperatures)
    if (temperatures == 1).all():
        return result.confidence.reshape(-1)
    return tempered(result.confidence, 1 / temperatures).reshape(-1)
