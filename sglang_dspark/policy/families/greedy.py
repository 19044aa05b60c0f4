"""The paper's Algorithm 1: admit by survival until throughput would fall."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.rank import sort_descending
from sglang_dspark.policy.record import Rule, write_scores


class Greedy(Policy):
    """Admits drafts in order of survival and stops at the first one that lowers ``tau * SPS(B)`` (paper, Alg. 1).

    The early stop is what makes the paper's one-stage scheduler lossless; here the stop is found on lagged survivals
    and the same rank decides on current ones.
    """

    needs_belief: ClassVar[bool] = True
    family: Literal["greedy"] = "greedy"

    def write(self, record: Any) -> None:
        pass

    @staticmethod
    @njit(cache=True)
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        record = rule[0]
        requests = survival.shape[0]
        candidates = write_scores(rule, survival, context, slo_class, 0, record.max_length)
        sort_descending(record.keys, candidates, record.counts, record.scratch)
        scores = record.keys.view(np.float32)
        best = rate(record, float(requests), requests, requests, False)
        accepted = 0.0
        for k in range(candidates):
            accepted += scores[k]
            throughput = rate(record, requests + accepted, requests, requests + k + 1, False)
            if throughput < best:
                return k
            best = throughput
        return candidates


@njit(cache=True, inline="always")
def rate(record: Any, expected: float, requests: int, tokens: int, eager: bool) -> float:
    """Expected tokens per second of a step that verifies ``tokens``: ``tau * SPS(B)``."""
    if eager:
        return float(expected / (record.requests_s[requests] + record.eager_s[tokens]))
    if record.is_rate:
        return float(expected * record.tokens_s[tokens])
    return float(expected / (record.requests_s[requests] + record.tokens_s[tokens]))
