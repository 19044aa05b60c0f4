"""No speculation: only the anchors are verified and the drafter rests."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from sglang_dspark.policy.families.base import Policy


class NoDraft(Policy):
    """Plain decoding through the speculative path."""

    code: ClassVar[int] = 0
    family: Literal["none"] = "none"

    def write(self, record: Any) -> None:
        record["off_above"] = 0.0
