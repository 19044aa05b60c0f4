"""SGLang's own planner: the budget that maximises expected tokens per second under a cost belief."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.families.greedy import rate
from sglang_dspark.policy.rank import sort_descending
from sglang_dspark.policy.record import Rule, write_scores


class Argmax(Policy):
    """Global search over all budgets (``compute_verify_token_budget``).

    ``fill`` raises the budget to the captured tier that the step is padded to anyway
    (``--speculative-dspark-align-verify-tokens-to-graph-tier``, ``graph_tier_fill_budget``).
    """

    needs_belief: ClassVar[bool] = True
    counts_prompts: ClassVar[bool] = True
    family: Literal["argmax"] = "argmax"
    fill: bool = False

    def write(self, record: Any) -> None:
        record["fill"] = self.fill

    @staticmethod
    @njit(cache=True)
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        candidates = write_scores(rule, survival, context, slo_class, 0, rule[0].max_length)
        return best_budget(rule, survival.shape[0], candidates, False)[0]


@njit(cache=True)
def best_budget(rule: Rule, requests: int, candidates: int, eager: bool) -> tuple[int, float]:
    """The budget with the most expected tokens per second, and that rate, over the candidates in ``keys``."""
    record = rule[0]
    sort_descending(record.keys, candidates, record.counts, record.scratch)
    scores = record.keys.view(np.float32)
    best, best_k = rate(record, float(requests), requests, requests, eager), 0
    accepted = 0.0
    for k in range(candidates):
        accepted += scores[k]
        throughput = rate(record, requests + accepted, requests, requests + k + 1, eager)
        if throughput > best:
            best, best_k = throughput, k + 1
    return best_k, best
