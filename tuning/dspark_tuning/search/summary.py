"""Summary of a tuning: figures of each arm over the report set, and the parts of the gain."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import Gain, at_floor, gain, gained_difference, gained_ratio
from dspark_tuning.search.objectives import METRICS, REQUIRED_ATTAINMENT, Objective, ttft_attainment

if TYPE_CHECKING:
    import pandas as pd

    from dspark_tuning.search.tune import Outcome


class ArmSummary(NamedTuple):
    """Figures of one arm over the report set.

    Means over its cells, with equal weight of every load and replication; percentiles are those within a cell.

    Attributes:
        saturated: Loads at which the backlog grew in at least half of the replications.
        gain: Gain of the winner over this arm in the objective, over all loads and paired replications.
    """

    arm: str
    throughput_tok_s: float
    attainment: float
    goodput_per_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    accepted_length: float
    verify_length: float
    saturated: tuple[float, ...]
    gain: Gain


class Split(NamedTuple):
    """Gain over SGLang's defaults in two factors, or in two differences where ratios are meaningless.

    Attributes:
        stock: Gain of the best unmodified SGLang, with flags and a cost table, over the defaults.
        policy: Gain of the winner over the best unmodified SGLang.
        both: Gain of the winner over the defaults.
    """

    stock: Gain
    policy: Gain
    both: Gain


def saturation(growth: float) -> str:
    """Remark on a run whose backlog grew by ``growth`` requests."""
    return f"saturated: the backlog grew by {growth:,.0f} requests; goodput depends on the length of the run"


def summaries(outcome: Outcome) -> list[ArmSummary]:
    """Summary of every arm, in the order of the report."""
    figures = list(ArmSummary._fields[1:-2])
    means = outcome.rows.groupby("arm", sort=False)[figures].mean()
    winner = outcome.winner.name
    rows, objective = outcome.rows, outcome.options.objective
    grown = saturated(rows)
    return [
        ArmSummary._make(
            (
                arm,
                *means.loc[arm],
                tuple(load for name, load in grown if name == arm),
                gain(rows, winner, str(arm), objective),
            )
        )
        for arm in means.index
    ]


def saturated(rows: pd.DataFrame) -> dict[tuple[str, float], float]:
    """Growth of the backlog in requests by arm and load, where it grew in at least half of the replications."""
    cells = rows.groupby(["arm", "load"], sort=False)[["saturated", "backlog_growth"]].mean().reset_index()
    grown = cells[cells["saturated"] >= 0.5]
    return dict(zip(zip(grown["arm"], grown["load"], strict=True), grown["backlog_growth"], strict=True))


def remarks(rows: pd.DataFrame, objective: Objective) -> list[str]:
    """Remarks on the figures, one sentence each: saturated loads, and loads with a low TTFT attainment."""
    sentences = [f"'{arm}' at load {load:g} is {saturation(growth)}" for (arm, load), growth in saturated(rows).items()]
    if METRICS[objective].needs_ttft:
        title, shares = METRICS[objective].title, ttft_attainment(rows)
        short = shares[shares < REQUIRED_ATTAINMENT].reset_index()
        sentences += [
            f"'{arm}' at load {load:g} meets the TTFT of {share:.0%} of the requests: its {title} is at the expense of "
            "waiting requests"
            for arm, load, share in short.itertuples(index=False)
        ]
    return sentences


def split(outcome: Outcome) -> Split:
    """Split the gain of the winner into the part of flags and cost table and the part of the policy."""
    winner, objective = outcome.winner.name, outcome.options.objective
    rows = outcome.rows[outcome.rows["arm"].isin([winner, baselines.STOCK, baselines.DEFAULT])]
    # One form for all three, so that the parts combine to the whole.
    form = gained_difference if at_floor(rows, objective) else gained_ratio
    return Split(
        stock=form(rows, baselines.STOCK, baselines.DEFAULT, objective),
        policy=form(rows, winner, baselines.STOCK, objective),
        both=form(rows, winner, baselines.DEFAULT, objective),
    )
