"""One survival threshold for all loads."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from sglang_dspark.policy.families.base import Policy, Probability
from sglang_dspark.policy.families.threshold import Threshold


class Static(Policy):
    """Counts the drafts whose lagged survival reaches ``theta``: ``threshold`` with one knot."""

    family: Literal["static"] = "static"
    theta: Probability
    compute_budget: ClassVar = staticmethod(Threshold.compute_budget)

    def survival_threshold(self) -> Threshold:
        return Threshold(running=(1,), theta=(self.theta,))

    def write(self, record: Any) -> None:
        record["knots"] = 1
        record["theta"][0] = self.theta
