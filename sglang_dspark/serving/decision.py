"""The host's part of a step in one compiled call: which confidences are fresh, their survivals, and the budget."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS
from sglang_dspark.policy.lag import unseen
from sglang_dspark.policy.record import Budget, Load, Rule
from sglang_dspark.policy.rule import drops_schedule, fits, lengths, pad, plan


class Lagged(NamedTuple):
    """Confidences from one or two steps ago, by row.

    Attributes:
        confidence: float32 [N, gamma].
        generation: int64 [N], each row's slot generation when its confidence was recorded.
        rows: int64 [R], the row of each request.
        current_generation: int64 [R], the generations of the requests' slots now.
    """

    confidence: NDArray[np.float32]
    generation: NDArray[np.int64]
    rows: NDArray[np.int64]
    current_generation: NDArray[np.int64]


class Decider:
    """Decides budgets under one rule. Holds the scratch space, so not for two threads at once."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        record = rule[0]
        self._requests_s, self._tokens_s, self._is_rate = record["requests_s"], record["tokens_s"], record["is_rate"]
        self._eager_s = record["eager_s"] if record["knows_eager"] else None
        self._survival = np.ones((MAX_REQUESTS, int(rule[0]["gamma"])), np.float32)

    def budget(self, lagged: Lagged | None, load: Load) -> Budget:
        """``policy.budget`` of ``policy.lag.fresh_survival``, without arrays between; None is nothing fresh."""
        if lagged is None:
            survival = self._survival[: len(load.context)]
            unseen(survival)
            return Budget(*plan(self.rule, survival, load.context, load.slo_class))
        return Budget(*decide(self.rule, *lagged, load.context, load.slo_class, self._survival))

    def rest(self, load: Load) -> Budget:
        """The budget of a step without drafts."""
        requests = len(load.context)
        return Budget(pad(self.rule, requests, requests), 0, False)

    def warm(self) -> None:
        """Compiles all that a step calls, before the server serves: a first compilation takes seconds."""
        one = np.ones(1, np.int64)
        none = np.zeros(1, np.int64)
        confidence = np.full((1, self._survival.shape[1]), 0.5, np.float32)
        load = Load(one, none)
        for lagged in (None, Lagged(confidence, one, none, one)):
            self.budget(lagged, load)
        self.rest(load)
        lengths(self.rule, confidence, load, 1)
        carry(confidence.copy(), one.copy(), none, confidence, one)
        self.shortens_eagerly(1, 1)
        drops_schedule(self.rule, 1, 1)

    def shortens_eagerly(self, requests: int, cap: int) -> bool:
        """Whether an eager step verifies less than whole blocks, which is all that upstream does past its graphs."""
        return not fits(self.rule, requests, requests + cap) and not drops_schedule(self.rule, requests, cap)

    def believed_s(self, requests: int, tokens: int) -> float:
        """Seconds that the cost belief gives a step; NaN for an eager one where it does not know those."""
        tokens = min(tokens, MAX_TOKENS)
        if not fits(self.rule, requests, tokens):
            return math.nan if self._eager_s is None else float(self._requests_s[requests] + self._eager_s[tokens])
        if self._is_rate:
            return 1.0 / float(self._tokens_s[tokens])
        return float(self._requests_s[requests] + self._tokens_s[tokens])


@njit(cache=True)
def decide(
    rule: Rule,
    confidence: NDArray[np.float32],
    generation: NDArray[np.int64],
    rows: NDArray[np.int64],
    current_generation: NDArray[np.int64],
    context: NDArray[np.int64],
    slo_class: NDArray[np.int64],
    survival: NDArray[np.float32],
) -> tuple[int, int, bool]:
    """Compiled form of :meth:`Decider.budget`; ``survival`` float32 [MAX_REQUESTS, gamma] is scratch."""
    requests, gamma = rows.shape[0], confidence.shape[1]
    for r in range(requests):
        row = rows[r]
        if current_generation[r] >= 1 and generation[row] == current_generation[r]:
            product = 1.0
            for j in range(gamma):
                product *= confidence[row, j]
                survival[r, j] = product
        else:
            unseen(survival[r])
    return plan(rule, survival[:requests], context, slo_class)


@njit(cache=True)
def carry(
    ring_confidence: NDArray[np.float32],
    ring_generation: NDArray[np.int64],
    rows: NDArray[np.int64],
    confidence: NDArray[np.float32],
    generation: NDArray[np.int64],
) -> None:
    """Stores a step's confidences in one place of upstream's lag ring (``_shift_to_lag``).

    Args:
        ring_confidence: float32 [slots, gamma].
        ring_generation: int64 [slots].
        rows: int64 [R].
        confidence: float32 [R, gamma].
        generation: int64 [R].
    """
    for r in range(rows.shape[0]):
        ring_confidence[rows[r]] = confidence[r]
        ring_generation[rows[r]] = generation[r]
