"""One survival threshold for all loads."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from sglang_dspark.policy.families.base import Policy, Probability


class Static(Policy):
    """Counts the drafts whose lagged survival reaches ``theta``; the compiled form is ``threshold`` with one knot."""

    code: ClassVar[int] = 5
    family: Literal["static"] = "static"
    theta: Probability

    def write(self, record: Any) -> None:
        record["knots"] = 1
        record["theta"][0] = self.theta
