"""A policy compiled for a running server."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.policy import Budget
from sglang_dspark.policy.artifact import Artifact
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS
from sglang_dspark.policy.lag import carry, fresh_survival, unseen
from sglang_dspark.policy.record import Load, Rule
from sglang_dspark.policy.rule import compute_budget, drops_schedule, fits, lengths, pad
from sglang_dspark.serving.classes import Classes
from sglang_dspark.serving.steps import Geometry


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


class BoundRule:
    """A compiled rule with its scratch space: not for two threads at once."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        record = rule[0]
        self._requests_s, self._tokens_s, self._is_rate = record["requests_s"], record["tokens_s"], record["is_rate"]
        self._eager_s = record["eager_s"] if record["knows_eager"] else None
        self._survival = np.ones((MAX_REQUESTS, int(record["gamma"])), np.float32)

    def survival(self, lagged: Lagged | None, requests: int) -> NDArray[np.float32]:
        """Survivals to budget from, float32 [R, gamma], valid until the next call; 1 where ``lagged`` is None."""
        if lagged is not None:
            return fresh_survival(*lagged, self._survival)
        survival = self._survival[:requests]
        unseen(survival)
        return survival

    def rest_budget(self, requests: int) -> Budget:
        """The budget of a step without drafts."""
        return Budget(pad(self.rule, requests, requests), 0, False)

    def warm(self) -> None:
        """Compile all that a step calls, before the server serves: a first compilation takes seconds."""
        one = np.ones(1, np.int64)
        none = np.zeros(1, np.int64)
        confidence = np.full((1, self._survival.shape[1]), 0.5, np.float32)
        for lagged in (None, Lagged(confidence, one, none, one)):
            compute_budget(self.rule, self.survival(lagged, 1), one, none)
        self.rest_budget(1)
        lengths(self.rule, confidence, Load(one, none), 1)
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


class BoundPolicy(NamedTuple):
    """An artifact bound to the server. Replaced whole.

    Attributes:
        text: The artifact's file.
        version: 1 at the start; grows by 1 with every policy taken.
        needs_context, needs_class: Its budget depends on the requests' context, or on their classes.
    """

    artifact: Artifact
    text: bytes
    version: int
    geometry: Geometry
    bound: BoundRule
    classes: Classes
    needs_context: bool
    needs_class: bool

    @property
    def sha256(self) -> str:
        """Of the file, as ``sha256sum`` prints it."""
        return hashlib.sha256(self.text).hexdigest()
