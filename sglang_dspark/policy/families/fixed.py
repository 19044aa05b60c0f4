"""The same number of drafts for every request, whatever the load."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Length, Policy
from sglang_dspark.policy.record import Rule


class Fixed(Policy):
    """Verifies the first ``length`` drafts of every block."""

    code: ClassVar[int] = 1
    family: Literal["fixed"] = "fixed"
    length: Length

    def write(self, record: Any) -> None:
        record["max_length"] = min(self.length, int(record["max_length"]))


@njit(cache=True)
def wanted(rule: Rule, requests: int) -> int:
    return int(requests * rule[0].max_length)
