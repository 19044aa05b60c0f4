"""Acceptance model from recorded rounds, with one domain for each class of requests.

The model (``dspark_simulator.acceptance_model``) gives every token a latent quality, and acceptance is a logistic draw
on it. The head's logit is assumed to be a linear image of that quality, so the spreads of the logit within and between
requests are those of the quality; without recorded confidences the spreads of the packaged drafter are used. The offset
of each position is then set so that the probability of acceptance, given an accepted prefix, is the recorded one: a
draft counts at its position if the target judged it. With enough rounds that verified the whole block, only those
count, since a request with low acceptance has more rounds the more is verified.
"""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, ndtri

from dspark_simulator.acceptance_model import AcceptanceModel, Domain, packaged
from dspark_tuning.measuring.calibrate.confidence import LEAST_ROUNDS
from dspark_tuning.measuring.calibrate.rounds import Rounds

Floats = NDArray[np.float64]

PERSISTENCE_TOKENS = 32
# Quantiles of the quality that a request's block shares, and random blocks of each.
REQUESTS, BLOCKS = 48, 384
SEED = 1
# Weight of the pooled acceptance of all classes in that of a class, in drafts of its own.
BORROWED = 10.0
NO_KNEE = 100.0
WEIGHTINGS = 5
WIDEST = 8.0
STEEPEST, FLATTEST = 0.1, 3.0


class AcceptanceFit(NamedTuple):
    """A fitted acceptance model, with measured and modelled acceptance.

    Attributes:
        measured, modelled: float64 [classes, gamma], acceptance of a draft whose prefix was accepted.
        judged: int64 [classes, gamma], number of drafts behind ``measured``.
        warnings: Assumptions made for lack of data.
    """

    model: AcceptanceModel
    classes: tuple[str, ...]
    measured: Floats
    modelled: Floats
    judged: NDArray[np.int64]
    warnings: tuple[str, ...]


class _Spreads(NamedTuple):
    """Standard deviations of the quality in logits: between requests, along an output, between tokens."""

    ability: float
    persistence: float
    variation: float


def fit(rounds: Rounds, temperatures: Floats, target: str, drafter: str, source: str) -> AcceptanceFit:
    """Fit an acceptance model.

    Args:
        rounds: At least one round.
        temperatures: float64 [gamma], temperatures of the confidence head.
        target, drafter, source: Names recorded in the model.
    """
    gamma = rounds.logits.shape[1]
    warnings = []
    slope, bias = _head(rounds)
    rounds = _comparable(rounds)
    reached, survived = rounds.reached, rounds.survived
    pooled_judged = reached.sum(0)
    pooled = (survived & reached).sum(0) / np.maximum(pooled_judged, 1)
    # Positions that were never verified get the acceptance of the last position that was.
    for k in range(1, gamma):
        if pooled_judged[k] == 0:
            pooled[k] = pooled[k - 1]
    if (pooled_judged == 0).any():
        first = int(np.argmin(pooled_judged > 0)) + 1
        warnings.append(
            f"No draft at position {first} or later was verified: that of the last verified position is assumed."
        )
    measured, judged = np.empty((len(rounds.classes), gamma)), np.empty((len(rounds.classes), gamma), np.int64)
    domains: dict[str, Domain] = {}
    modelled = np.empty_like(measured)
    known = np.isfinite(rounds.logits).all(1)
    if known.sum() < LEAST_ROUNDS:
        warnings.append(
            "Too few confidences were recorded: the spread between requests is that of the packaged drafter."
        )
    for place, name in enumerate(rounds.classes):
        mine = rounds.slo_class == place
        judged[place] = reached[mine].sum(0)
        accepted = (survived & reached)[mine].sum(0)
        measured[place] = accepted / np.maximum(judged[place], 1)
        smoothed = (accepted + BORROWED * pooled) / (judged[place] + BORROWED)
        spreads = (
            _spreads(rounds.take(mine & known), slope, bias)
            if (mine & known).sum() >= LEAST_ROUNDS
            else _packaged_spreads()
        )
        offsets, modelled[place] = _offsets(smoothed, spreads)
        domains[name] = Domain(
            mean=float(offsets[0]),
            ability=spreads.ability,
            persistence=spreads.persistence,
            variation=spreads.variation,
            knee=NO_KNEE,
            stretch=1.0,
            offsets=tuple(float(o - offsets[0]) for o in offsets),
        )
    model = AcceptanceModel(
        target=target,
        drafter=drafter,
        source=source,
        persistence_tokens=PERSISTENCE_TOKENS,
        slope=tuple(float(s) for s in slope),
        bias=tuple(float(b) for b in bias),
        sts=tuple(float(t) for t in temperatures),
        domains=domains,
    )
    return AcceptanceFit(model, rounds.classes, measured, modelled, judged, tuple(warnings))


def _comparable(rounds: Rounds) -> Rounds:
    whole = rounds.verified == rounds.logits.shape[1]
    enough = np.bincount(rounds.slo_class[whole], minlength=len(rounds.classes)) >= LEAST_ROUNDS
    return rounds.take(whole) if enough.all() else rounds


def _head(rounds: Rounds) -> tuple[Floats, Floats]:
    """Slope and bias of the head by position: ``logit = slope * z + bias`` with acceptance ``sigmoid(z)``."""
    gamma = rounds.logits.shape[1]
    slope, bias = np.ones(gamma), np.zeros(gamma)
    every = rounds.reached & np.isfinite(rounds.logits)
    if every.sum() < LEAST_ROUNDS:
        return slope, bias
    pooled = _logistic(rounds.logits[every], rounds.survived[every], np.array([0.0, 1.0]), 1e-3)
    for k in range(gamma):
        at = every[:, k]
        intercept, steepness = _logistic(rounds.logits[at, k], rounds.survived[at, k], pooled, BORROWED / 4)
        steepness = float(np.clip(steepness, STEEPEST, 1 / STEEPEST))
        slope[k], bias[k] = 1 / steepness, -intercept / steepness
    return slope, bias


def _logistic(x: Floats, accepted: NDArray[np.bool_], prior: Floats, strength: float) -> Floats:
    """Intercept and steepness of a logistic regression; ``prior`` weighs as much as ``strength`` rounds."""
    design = np.stack([np.ones(len(x)), x], 1)

    def loss(weights: Floats) -> float:
        logits = design @ weights
        off = weights - prior
        return float(np.logaddexp(0, logits).sum() - logits[accepted].sum() + strength / 2 * off @ off)

    def gradient(weights: Floats) -> Floats:
        return np.asarray(design.T @ (expit(design @ weights) - accepted) + strength * (weights - prior), np.float64)

    return np.asarray(minimize(loss, prior, jac=gradient, method="BFGS", options={"gtol": 1e-8}).x, np.float64)


def _spreads(rounds: Rounds, slope: Floats, bias: Floats) -> _Spreads:
    """Spreads of the quality from the logits: between requests, between blocks of a request, and within blocks."""
    quality = (rounds.logits - bias) / slope
    quality = quality - quality.mean(0)
    within_block = quality.var(1, ddof=1).mean() if quality.shape[1] > 1 else 0.0
    block = quality.mean(1)
    of_block = max(block.var() - within_block / quality.shape[1], 0.0)
    of_request = 0.0
    if (rounds.request >= 0).all():
        place = np.unique(rounds.request, return_inverse=True)[1]
        counts = np.bincount(place)
        means = np.bincount(place, block) / counts
        several = counts > 1
        if several.sum() > 2:
            inside = np.bincount(place, (block - means[place]) ** 2)[several].sum() / (counts[several] - 1).sum()
            of_request = max(float(means[several].var()) - inside * float((1 / counts[several]).mean()), 0.0)
    of_request = min(of_request, of_block)
    return _Spreads(
        *(float(min(np.sqrt(max(v, 0.0)), WIDEST)) for v in (of_request, of_block - of_request, within_block))
    )


def _packaged_spreads() -> _Spreads:
    domains = packaged().domains.values()
    return _Spreads(*(fmean(getattr(d, name) for d in domains) for name in _Spreads._fields))


def _offsets(acceptance: Floats, spreads: _Spreads) -> tuple[Floats, Floats]:
    """Offsets by position at which the modelled acceptance equals ``acceptance``, and the modelled acceptance.

    A request of low quality needs more rounds for the same output, so its weight among rounds is the inverse of its
    accepted length.
    """
    shared = ndtri((np.arange(REQUESTS) + 0.5) / REQUESTS)
    own = np.random.default_rng(SEED).standard_normal((BLOCKS, len(acceptance)))
    quality = np.hypot(spreads.ability, spreads.persistence) * shared[:, None, None] + spreads.variation * own
    offsets = np.zeros(len(acceptance))
    weight = np.ones((REQUESTS, 1))
    chance = np.empty_like(quality)
    for _ in range(WEIGHTINGS):
        prefix = np.repeat(weight, BLOCKS, axis=1)
        alive = np.ones((REQUESTS, BLOCKS))
        length = np.ones((REQUESTS, BLOCKS))
        for k, share in enumerate(acceptance):
            offsets[k] = _solve(quality[:, :, k], prefix, float(np.clip(share, 0.002, 0.998)))
            chance[:, :, k] = expit(quality[:, :, k] + offsets[k])
            prefix = prefix * chance[:, :, k]
            alive = alive * chance[:, :, k]
            length = length + alive
        # The variation between tokens differs in every block, so the length is averaged over blocks.
        weight = 1 / length.mean(1, keepdims=True)
    prefix = np.repeat(weight, BLOCKS, axis=1)
    modelled = np.empty(len(acceptance))
    for k in range(len(acceptance)):
        modelled[k] = (prefix * chance[:, :, k]).sum() / prefix.sum()
        prefix = prefix * chance[:, :, k]
    return offsets, modelled


def _solve(quality: Floats, weight: Floats, share: float) -> float:
    """The offset at which the weighted mean of ``expit(quality + offset)`` is ``share``."""
    total = weight.sum()
    return float(brentq(lambda offset: (weight * expit(quality + offset)).sum() / total - share, -60.0, 60.0))
