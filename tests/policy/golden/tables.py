"""Cost tables in upstream's two JSON forms: as profiled, and as nobody would profile them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.policy.golden.confidences import EQUAL_SURVIVAL
from tests.policy.golden.draws import Draws

Table = dict[str, Any]


def random_table(draws: Draws, *, typical: int, gamma: int, max_requests: int) -> Table:
    """A table under which ``typical`` requests have their best budget anywhere from none to all of their drafts."""
    base_s = draws.one(0.004, 0.03)
    per_token_s = base_s * draws.one(0.02, 1.5) / (typical * draws.choice((1, 1, 2, gamma + 1)))
    # Probes that end before the largest step, at it, or well past it.
    last = max(2, int(max_requests * (gamma + 1) * draws.choice((0.2, 0.6, 1.0, 1.5))))
    return draws.choice(TABLES)(draws, base_s, per_token_s, last)


def _floor(probes: list[int], rates: Iterable[float], spare: int = 0) -> Table:
    return {
        "sample_batch_tokens": probes,
        "sample_steps_per_sec": [float(rate) for rate in rates],
        "max_batch_tokens": probes[-1] + spare,
    }


def _floor_decreasing(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    probes = draws.distinct(1, last, draws.integer(2, 64))
    return _floor(probes, (1.0 / (base_s + per_token_s * tokens) for tokens in probes), draws.integer(0, 100))


def _floor_random(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    probes = draws.distinct(1, last, draws.integer(2, 24))
    return _floor(probes, 5.0 + 200.0 * draws.unit(len(probes)))


def _floor_flat(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    probes = draws.distinct(1, last, draws.integer(1, 6))
    return _floor(probes, [1.0 / base_s] * len(probes))


def _floor_one_probe(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Upstream's uninitialised table, or a single probe that a step may not reach."""
    return _floor([1], [1.0], last) if draws.chance(0.5) else _floor([last], [1.0 / base_s])


def _floor_staircase(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Flat over each captured size, as a profile of padded steps is."""
    stride = draws.choice((1, 2, 4, 8, 16))
    probes = list(range(1, last + 1, max(stride, last // 96)))
    width = draws.integer(2, 6)
    return _floor(probes, (1.0 / (base_s + per_token_s * probes[i - i % width]) for i in range(len(probes))))


def _floor_proportional(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Time proportional to tokens up to rounding: with all survivals 1, the last bit decides."""
    return _floor(list(range(1, last + 1)), (1.0 / base_s / tokens for tokens in range(1, last + 1)))


def _additive(bias_s: float, bs: list[int], alpha: Iterable[float], m: list[int], theta: Iterable[float]) -> Table:
    return {
        "bias_seconds": bias_s,
        "bs_probes": bs,
        "alpha_seconds": [float(value) for value in alpha],
        "m_probes": m,
        "theta_seconds": [float(value) for value in theta],
    }


def _additive_linear(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    bs = draws.distinct(1, max(1, last // 4), draws.integer(1, 8))
    m = draws.distinct(1, last, draws.integer(2, 24))
    noise = 1.0 + 0.1 * draws.unit(len(m))
    return _additive(base_s, bs, (0.1 * per_token_s * n for n in bs), m, (per_token_s * np.asarray(m) * noise))


def _additive_convex(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    m = draws.distinct(1, last, draws.integer(2, 40))
    theta = (per_token_s * tokens * (0.2 + 1.6 * tokens / last) for tokens in m)
    return _additive(base_s, [1], [draws.one(0.0, base_s)], m, theta)


def _additive_steps(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Jumps between neighbouring token counts: the cliff of a tile or of the last captured graph."""
    edges = draws.distinct(1, last, draws.integer(1, 6))
    m = sorted({token for edge in edges for token in (edge, edge + 1)})
    rises = np.cumsum(draws.unit(len(m))) * per_token_s * last / len(m)
    bs = draws.distinct(1, 40, 3)
    return _additive(base_s, bs, draws.unit(len(bs)) * base_s, m, rises)


def _additive_random(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Neither part monotone."""
    bs = draws.distinct(1, 300, draws.integer(1, 8))
    m = draws.distinct(1, last, draws.integer(1, 16))
    return _additive(base_s, bs, draws.unit(len(bs)) * base_s, m, draws.unit(len(m)) * 2.0 * base_s)


def _additive_one_probe(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    return _additive(base_s, [draws.integer(1, 64)], [draws.one(0.0, base_s)], [draws.integer(1, last)], [base_s])


def _additive_matched(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Time proportional, up to rounding, to the tokens expected where all survivals are EQUAL_SURVIVAL."""
    per_draft_s = float(EQUAL_SURVIVAL) * base_s
    per_anchor_s = base_s - per_draft_s
    return _additive(per_anchor_s, [1, 257], [0.0, 256 * per_anchor_s], [1, 5001], [per_draft_s, 5001 * per_draft_s])


def _additive_proportional(draws: Draws, base_s: float, per_token_s: float, last: int) -> Table:
    """Time exactly proportional to tokens: with all survivals 1, every budget is equally good."""
    span = 1 << 13
    return _additive(1.0, [1], [-1.0], [1, 1 + span], [2.0**-12, 2.0**-12 * (1 + span)])


Form = Callable[[Draws, float, float, int], Table]
TABLES: tuple[Form, ...] = (
    *(_floor_decreasing, _floor_decreasing, _floor_random, _floor_flat, _floor_one_probe, _floor_staircase),
    *(_additive_linear, _additive_linear, _additive_convex, _additive_convex, _additive_steps, _additive_random),
    *(_additive_one_probe, _additive_proportional, _additive_matched, _floor_proportional),
)
