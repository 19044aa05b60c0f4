"""What a change of the traffic or the deployment would do, one row a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dspark_tuning.reporting.numbers import Estimate, estimate, milliseconds
from dspark_tuning.reporting.page import Html, Row, table


class WhatIf(NamedTuple):
    """A change and what it does.

    Attributes:
        change: In words; the first row is the plan itself.
        gpus: That meet the service levels then; None where no number of them does.
        more_gpus: Than the plan has.
        goodput_per_s: Of the plan's own size under the change; unknown where it is saturated.
        within: Share of the requests within their service levels, of the plan's own size.
        reason: In words, what bounds it then.
    """

    change: str
    gpus: int | None
    more_gpus: int | None
    goodput_per_s: Estimate
    within: float
    ttft_p99_s: float
    tpot_p99_s: float
    reason: str


def what_if(caption: str, rows: Sequence[WhatIf]) -> Html:
    header = ["Change", "GPUs", "More", "Good requests/s", "Within SLOs", "TTFT p99, ms", "TPOT p99, ms", "Why"]
    return table(
        caption,
        header,
        [
            Row(
                row.change,
                [
                    "not met" if row.gpus is None else f"{row.gpus:,}",
                    "" if row.more_gpus is None else f"{row.more_gpus:+,}",
                    estimate(row.goodput_per_s),
                    f"{row.within:.1%}",
                    milliseconds(row.ttft_p99_s),
                    milliseconds(row.tpot_p99_s),
                    row.reason,
                ],
            )
            for row in rows
        ],
    )
