"""Accepted length, acceptance by position and threshold sweep, with intervals over requests. No torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_tuning.measuring.calibrate.rounds import Rounds

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 95.0
SEED = 20260705
THRESHOLDS = tuple(step / 10 for step in range(10))


class Estimated(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Swept(NamedTuple):
    """The effect of dropping a block's drafts from the first confidence below a threshold (Fig. 5 of the paper).

    Attributes:
        verify_tokens: Tokens verified per round, anchor included.
        accepted_length: Tokens per round.
        acceptance: Share of the verified drafts that are accepted; NaN where none is verified.
    """

    threshold: float
    verify_tokens: float
    accepted_length: float
    acceptance: float


class DrafterFigures(NamedTuple):
    """The figures of one data set at one temperature.

    Attributes:
        accepted_length: Tokens per round, the target's own included.
        acceptance: By position, of drafts whose prefix was accepted.
        judged: Number of such drafts by position.
        sweep: By threshold; empty without a confidence head.
    """

    dataset: str
    temperature: float
    requests: int
    rounds: int
    accepted_length: Estimated
    acceptance: list[Estimated]
    judged: list[int]
    sweep: list[Swept]


def figures(rounds: Rounds, temperature: float) -> list[DrafterFigures]:
    """Compute the figures of every data set (a class of ``rounds``) and of all together."""
    rows = []
    for place, name in enumerate((*rounds.classes, "all")):
        within = rounds.slo_class == place if name != "all" else np.ones(len(rounds.accepted), bool)
        if name == "all" and len(rounds.classes) == 1:
            break
        if within.any():
            rows.append(_figures(rounds.take(within), name, temperature))
    return rows


def sweep(rounds: Rounds) -> list[Swept]:
    """Truncate every block before the first draft whose raw confidence is below a threshold, for each threshold."""
    if not np.isfinite(rounds.logits).all():
        return []
    confidence = 0.5 * (1.0 + np.tanh(0.5 * rounds.logits))
    swept = []
    for threshold in THRESHOLDS:
        kept = (confidence >= threshold).cumprod(1).sum(1)
        accepted = np.minimum(rounds.accepted, kept)
        share = accepted.sum() / kept.sum() if kept.sum() else np.nan
        swept.append(Swept(threshold, float(kept.mean() + 1), float(accepted.mean() + 1), float(share)))
    return swept


def _figures(rounds: Rounds, name: str, temperature: float) -> DrafterFigures:
    requests, place = np.unique(rounds.request, return_inverse=True)
    reached, survived = rounds.reached, rounds.survived
    gamma = reached.shape[1]

    def by_request(values: NDArray[np.generic]) -> Floats:
        total = np.zeros((len(requests), *values.shape[1:]))
        np.add.at(total, place, values.astype(np.float64))
        return total

    judged, accepted = by_request(reached), by_request(survived & reached)
    counts, lengths = by_request(np.ones(len(place))), by_request(rounds.accepted + 1.0)
    acceptance = [_ratio(accepted[:, k], judged[:, k]) for k in range(gamma)]
    return DrafterFigures(
        name,
        temperature,
        len(requests),
        len(rounds.accepted),
        _ratio(lengths, counts),
        acceptance,
        [int(n) for n in reached.sum(0)],
        sweep(rounds),
    )


def _ratio(top: Floats, bottom: Floats) -> Estimated:
    """Compute a ratio of sums over requests, with a percentile interval from resampled requests (bootstrap)."""
    if not bottom.sum():
        return Estimated(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(SEED)
    # How often each request is drawn; figures of equally many requests share the draws.
    draws = rng.multinomial(len(top), np.full(len(top), 1.0 / len(top)), RESAMPLES)
    denominators = draws @ bottom
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (draws @ top) / denominators
    low, high = np.nanpercentile(ratios, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Estimated(float(top.sum() / bottom.sum()), float(low), float(high))
