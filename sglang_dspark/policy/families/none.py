"""No speculation: only the anchors are verified and the drafter rests."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.record import Rule


class NoDraft(Policy):
    """Plain decoding through the speculative path."""

    family: Literal["none"] = "none"

    def write(self, record: Any) -> None:
        record["off_above"] = 0.0

    @staticmethod
    @njit(cache=True)
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        return 0
