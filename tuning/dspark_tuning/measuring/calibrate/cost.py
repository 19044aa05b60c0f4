"""Cost model from recorded step times, by requests, tokens and context."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dspark_simulator.costs.base import GridCurve, Overhead, RequestCurve, TokenCurve
from dspark_simulator.costs.curve import CurveCost, Measurements
from dspark_simulator.deployment import Live
from dspark_tuning.measuring.calibrate.nonnegative import bends, knots, ramps, robust
from dspark_tuning.measuring.calibrate.step_cells import cells
from sglang_dspark.policy import sglang_tiers

Floats = NDArray[np.float64]

VERIFY_KNOTS = 10
DRAFT_KNOTS = 4
PREFILL_KNOTS = 8
# Share of the error that padding must explain to be inferred.
PADDED_GAIN = 0.1
LEAST_S = 1e-7
# Penalty of a bend: a change of slope by a whole step time counts like this relative error of all steps.
STRAIGHT = 0.01


class Capture(NamedTuple):
    """CUDA graph capture of a server.

    Attributes:
        requests: Largest captured batch; 0 if nothing is captured.
        why: The evidence for it.
    """

    requests: int
    why: str


class Error(NamedTuple):
    """Relative errors of a fit on held-out steps."""

    part: str
    steps: int
    median: float
    p90: float


class CostFit(NamedTuple):
    """A fitted cost model with its errors.

    Attributes:
        errors: By part, on held-out blocks of steps.
        predicted_s: float64 [timed decode steps], step times of the final fit, in the order of the recording.
        warnings: Costs that the recording does not determine.
    """

    cost: CurveCost
    live: Live
    capture: Capture
    errors: tuple[Error, ...]
    predicted_s: Floats
    warnings: tuple[str, ...]


class _Parts(NamedTuple):
    """Coefficients of a fit in seconds: constant, per request, draft, ramps of draft and verify, per context token."""

    overhead_s: float
    request_s: float
    draft_s: float
    draft_at: list[float]
    draft_rise_s: Floats
    verify_at: list[float]
    verify_rise_s: Floats
    context_s: float

    def step_s(self, steps: pd.DataFrame) -> Floats:
        """Step times by this fit."""
        drafted = steps["drafted"].to_numpy(np.float64)
        requests, tokens = steps["requests"].to_numpy(np.float64), steps["tokens"].to_numpy(np.float64)
        total: Floats = self.overhead_s + self.request_s * requests + self.context_s * steps["context"].to_numpy()
        total = total + drafted * (self.draft_s + ramps(requests, self.draft_at) @ self.draft_rise_s)
        return np.asarray(total + ramps(tokens, self.verify_at) @ self.verify_rise_s, np.float64)


def fit(decoded: pd.DataFrame, prefilled: pd.DataFrame, plain: pd.DataFrame | None, gamma: int) -> CostFit:
    """Fit a ``curve`` cost model.

    A decode step is the sum of a constant, a cost per request, a draft that does not fall with requests, a verify that
    does not fall with tokens, and a cost per context token; all are non-negative.

    Args:
        decoded, prefilled: Tables of :mod:`dspark_tuning.measuring.calibrate.step_cells`.
        plain: Decode steps of a server without speculation: requests, context, step_s. None assumes the overhead of the
            recorded server.
        gamma: Block size, which determines the batch sizes that SGLang captures.
    """
    warnings = []
    capture = _capture(decoded, gamma)
    if capture.requests and not decoded["captured"].any():
        decoded = decoded.assign(tokens=_padded(decoded["tokens"].to_numpy(), sglang_tiers(capture.requests, gamma)))
    if decoded["drafted"].all():
        warnings.append("No step without a draft: drafting is part of the overhead, and resting it saves nothing.")
    elif not decoded["drafted"].any():
        warnings.append("No step with a draft: drafting is assumed to cost nothing.")
    warnings += _collinear(decoded)
    parts = _fit(decoded)
    predicted_s = parts.step_s(decoded)
    train = decoded[decoded["block"] % 2 == 0]
    errors = []
    if 0 < len(train) < len(decoded):
        held = decoded[decoded["block"] % 2 == 1]
        errors.extend(_errors(held, _fit(train).step_s(held)))
    prefill = _prefill(prefilled, parts)
    if prefill is None:
        warnings.append("No prefill was recorded: a prompt is assumed to cost as much as a verify of the same tokens.")
    else:
        off = np.abs(_prefill_s(prefilled, parts, prefill) / prefilled["step_s"].to_numpy() - 1)
        errors.append(Error("prefill", len(prefilled), float(np.median(off)), float(np.quantile(off, 0.9))))
    overhead = None
    if plain is not None:
        overhead = _plain(plain, parts)
    else:
        warnings.append(
            "No server without speculation was measured: its overhead is assumed to be that of the recorded server."
        )
    cost = CurveCost(
        kind="curve",
        curve=Measurements(captured=_verify_curve(parts), draft=_draft_curve(parts)),
        overhead_s=parts.overhead_s,
        request_s=parts.request_s,
        plain=overhead,
        context_s_per_token=parts.context_s,
        draft_block=gamma,
        prefill=prefill,
    )
    return CostFit(cost, _live(decoded, predicted_s), capture, tuple(errors), predicted_s, tuple(warnings))


def _fit(steps: pd.DataFrame) -> _Parts:
    medians = cells(steps)
    requests, tokens = medians["requests"].to_numpy(np.float64), medians["tokens"].to_numpy(np.float64)
    drafted = medians["drafted"].to_numpy(np.float64)
    draft_at = knots(requests[drafted > 0], DRAFT_KNOTS) if drafted.any() else [1.0]
    verify_at = knots(tokens, VERIFY_KNOTS)
    draft, verify = ramps(requests, draft_at), ramps(tokens, verify_at)
    both = 0.0 < drafted.mean() < 1.0
    columns = [
        np.ones((len(medians), 1)),
        requests[:, None],
        drafted[:, None] * both,
        drafted[:, None] * draft * both,
        verify,
        medians["context"].to_numpy()[:, None],
    ]
    ends = np.cumsum([0, *(column.shape[1] for column in columns)])
    straight = STRAIGHT / float(medians["step_s"].median())
    draft_rules, verify_rules = (
        np.pad(straight * bends(at), ((0, 0), (start, int(ends[-1] - end))))
        for at, start, end in ((draft_at, ends[3], ends[4]), (verify_at, ends[4], ends[5]))
    )
    x = robust(
        np.concatenate(columns, 1),
        medians["step_s"].to_numpy(),
        medians["steps"].to_numpy(np.float64),
        np.concatenate([draft_rules, verify_rules]),
    )
    overhead, request, draft_s, draft_rise, verify_rise, context = (x[a:b] for a, b in pairwise(ends))
    return _Parts(
        float(overhead[0]),
        float(request[0]),
        float(draft_s[0]),
        draft_at,
        draft_rise,
        verify_at,
        verify_rise,
        float(context[0]),
    )


def _collinear(steps: pd.DataFrame) -> list[str]:
    """Warnings on quantities that the recording does not vary."""
    warnings = []
    whole = steps["tokens"] / steps["requests"]
    if whole.nunique() == 1:
        warnings.append(
            f"Every request verifies {whole.iloc[0]:g} tokens: the costs of a request and a token cannot be separated; "
            "also record shorter verify lengths."
        )
    if steps["requests"].nunique() == 1:
        warnings.append(
            f"Every step has {steps['requests'].iloc[0]} requests: the cost of a request is unknown; record more loads."
        )
    return warnings


def _capture(steps: pd.DataFrame, gamma: int) -> Capture:
    """Infer the captured batch sizes from the sizes that the server reports, else from steps in the times."""
    if steps["captured"].any():
        largest = int(steps.loc[steps["captured"], "tokens"].max())
        return Capture(-(-largest // (gamma + 1)), f"the server ran steps of up to {largest} tokens as graphs")
    most = int(steps["requests"].max())
    linear = _spread(steps, _fit(steps))
    padded = steps.assign(tokens=_padded(steps["tokens"].to_numpy(), sglang_tiers(most, gamma)))
    stairs = _spread(padded, _fit(padded))
    if stairs < (1 - PADDED_GAIN) * linear and steps["tokens"].nunique() > 3:
        return Capture(
            most, f"step times are those of the next captured size (error {stairs:.1%}; without padding {linear:.1%})"
        )
    return Capture(0, f"step times rise with every token (error {linear:.1%}; with padding {stairs:.1%})")


def _spread(steps: pd.DataFrame, parts: _Parts) -> float:
    return float(np.median(np.abs(parts.step_s(steps) / steps["step_s"].to_numpy() - 1)))


def _padded(tokens: NDArray[np.int64], tiers: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.minimum(np.searchsorted(tiers, tokens), len(tiers) - 1)
    return np.asarray(np.maximum(tiers[place], tokens), np.int64)


def _errors(steps: pd.DataFrame, predicted_s: Floats) -> list[Error]:
    off = pd.Series(np.abs(predicted_s / steps["step_s"].to_numpy() - 1))
    named = np.where(steps["drafted"], "step with a draft", "step without a draft")
    return [
        Error(str(name), len(part), float(part.median()), float(part.quantile(0.9)))
        for name, part in off.groupby(named)
    ]


def _prefill(prefilled: pd.DataFrame, parts: _Parts) -> GridCurve | None:
    """Prefill time by new tokens, without the overhead of the step; None without prefill steps."""
    if prefilled.empty:
        return None
    tokens = prefilled["tokens"].to_numpy(np.float64)
    host_s = parts.overhead_s + parts.request_s * prefilled["requests"].to_numpy()
    at = knots(tokens, PREFILL_KNOTS)
    design = np.concatenate([np.ones((len(tokens), 1)), ramps(tokens, at)], 1)
    target = np.maximum(prefilled["step_s"].to_numpy() - host_s, LEAST_S)
    x = robust(design, target, np.ones(len(tokens)))
    seconds = np.maximum(x[0] + np.concatenate([[0.0], np.cumsum(x[1:])]), 0.0)
    return GridCurve(tokens=tuple(int(t) for t in at), seconds=tuple(float(s) for s in seconds))


def _prefill_s(prefilled: pd.DataFrame, parts: _Parts, curve: GridCurve) -> Floats:
    host_s = parts.overhead_s + parts.request_s * prefilled["requests"].to_numpy()
    return np.asarray(host_s + np.interp(prefilled["tokens"].to_numpy(), curve.tokens, curve.seconds), np.float64)


def _plain(plain: pd.DataFrame, parts: _Parts) -> Overhead:
    """Overhead of the server without speculation: its step times minus the verify of one token per request."""
    requests = plain["requests"].to_numpy(np.float64)
    verify_s = ramps(requests, parts.verify_at) @ parts.verify_rise_s
    rest_s = plain["step_s"].to_numpy() - verify_s - parts.context_s * plain["context"].to_numpy()
    design = np.stack([np.ones(len(requests)), requests], 1)[:, : min(2, plain["requests"].nunique())]
    x = robust(design, np.maximum(rest_s, LEAST_S), np.ones(len(requests)))
    return Overhead(overhead_s=float(x[0]), request_s=float(x[1]) if len(x) > 1 else parts.request_s)


def _verify_curve(parts: _Parts) -> TokenCurve:
    tokens, seconds = _from_one(parts.verify_at, 0.0, parts.verify_rise_s)
    return TokenCurve(tokens=tokens, seconds=seconds)


def _draft_curve(parts: _Parts) -> RequestCurve:
    requests, seconds = _from_one(parts.draft_at, parts.draft_s, parts.draft_rise_s)
    return RequestCurve(requests=requests, seconds=seconds)


def _from_one(at: list[float], first_s: float, rise_s: Floats) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Points of a curve from 1 on; extrapolated linearly below the first knot."""
    seconds = [first_s + rise for rise in np.concatenate([[0.0], np.cumsum(rise_s)])]
    if at[0] > 1 and len(at) > 1:
        slope = (seconds[1] - seconds[0]) / (at[1] - at[0])
        at, seconds = [1.0, *at], [max(seconds[0] - slope * (at[0] - 1), 0.0), *seconds]
    return tuple(int(place) for place in at), tuple(float(s) for s in seconds)


def _live(steps: pd.DataFrame, predicted_s: Floats) -> Live:
    """Range of live step times: the deviation of blocks of steps from the fit."""
    ratio = pd.Series(steps["step_s"].to_numpy() / predicted_s).groupby(steps["block"].to_numpy()).median()
    spread = min(float(ratio.sub(1).abs().quantile(0.9)), 0.5)
    return Live(slope=(1 - spread, 1 + spread))
