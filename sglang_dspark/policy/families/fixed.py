"""The same number of drafts for every request at every load."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Length, Policy
from sglang_dspark.policy.record import Rule


class Fixed(Policy):
    """Verifies the first ``length`` drafts of every block."""

    family: Literal["fixed"] = "fixed"
    length: Length

    def write(self, record: Any) -> None:
        record["max_length"] = min(self.length, int(record["max_length"]))

    @staticmethod
    @njit(cache=True)
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        return int(survival.shape[0] * rule[0].max_length)
