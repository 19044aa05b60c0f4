"""What has to be bought: one row a hardware and way of serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dspark_tuning.reporting.numbers import NONE, Estimate, estimate, milliseconds, number
from dspark_tuning.reporting.page import Cell, Html, Row, Strong, table


class Plan(NamedTuple):
    """The fewest replicas of a hardware that meet the service levels, served in one way.

    Attributes:
        capacity: Requests/s that a replica carries within the service levels.
        serving: ``tuned``, ``verify all``, ``MTP-1``, ``no speculation``.
        replicas: How many, or in words why there is no number.
        gpus: None where no number of replicas meets the service levels.
        cost: Per million output tokens, in the currency of the prices; None without a price.
        within: Share of the requests within their service levels.
        one_less: What one replica less reaches, in words.
        limit: What bounds it, in words: ``KV-bound``.
        chosen: It is the plan that the page recommends.
    """

    hardware: str
    serving: str
    capacity: Estimate
    replicas: str
    gpus: int | None
    cost: float | None
    goodput_per_s: Estimate
    within: Estimate
    one_less: str
    ttft_p99_s: float
    tpot_p99_s: float
    limit: str
    chosen: bool = False


def plans(caption: str, rows: Sequence[Plan]) -> Html:
    header = [
        "Hardware and serving", "Requests/s a replica", "Replicas", "GPUs", "Cost a million tokens", "Good requests/s",
        "Within SLOs", "One replica less", "TTFT p99, ms", "TPOT p99, ms", "Bound by",
    ]  # fmt: skip
    return table(caption, header, [Row(_name(row), _cells(row)) for row in rows])


def _name(row: Plan) -> Cell:
    name = f"{row.hardware}, {row.serving}"
    return Strong(f"{name} (chosen)") if row.chosen else name


def _cells(row: Plan) -> list[Cell]:
    return [
        estimate(row.capacity),
        row.replicas,
        NONE if row.gpus is None else f"{row.gpus:,}",
        NONE if row.cost is None else number(row.cost),
        estimate(row.goodput_per_s),
        estimate(row.within, share=True),
        row.one_less,
        milliseconds(row.ttft_p99_s),
        milliseconds(row.tpot_p99_s),
        row.limit,
    ]
