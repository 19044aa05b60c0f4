"""A tuning's outcome in few figures: each arm over the whole report set, and where the gain comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import Gain, at_floor, gain, gained_difference, gained_ratio
from dspark_tuning.search.objectives import METRICS, REQUIRED_ATTAINMENT, Objective, ttft_attainment

if TYPE_CHECKING:
    import pandas as pd

    from dspark_tuning.search.tune import Outcome


class ArmSummary(NamedTuple):
    """One arm over the report set.

    Figures are means over its cells, every load and replication counting the same; percentiles are those of a cell.

    Attributes:
        saturated: The loads at which the backlog grew in at least half of the replications.
        gain: The chosen arm over this arm in the objective, over all loads and paired replications.
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
    """The gain over SGLang's defaults in the objective, in two factors, or two differences where a ratio says nothing.

    Attributes:
        stock: What an unmodified SGLang takes, flags and a cost table, over its defaults.
        policy: The chosen arm over that.
    """

    stock: Gain
    policy: Gain
    both: Gain


def saturation(growth: float) -> str:
    """What a person has to know of a run whose backlog grew by so many requests."""
    return f"saturated: the backlog grew by {growth:,.0f} requests; goodput depends on the length of the run"


def summaries(outcome: Outcome) -> list[ArmSummary]:
    """Every arm of the report, in the order of the report."""
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
    """By how many requests the backlog grew, by arm and load, where it grew in at least half of the replications."""
    cells = rows.groupby(["arm", "load"], sort=False)[["saturated", "backlog_growth"]].mean().reset_index()
    grown = cells[cells["saturated"] >= 0.5]
    return dict(zip(zip(grown["arm"], grown["load"], strict=True), grown["backlog_growth"], strict=True))


def remarks(rows: pd.DataFrame, objective: Objective) -> list[str]:
    """What must be read beside the figures, a sentence each: saturation, and a speed that waiting requests pay for."""
    found = [f"'{arm}' at load {load:g} is {saturation(growth)}" for (arm, load), growth in saturated(rows).items()]
    if METRICS[objective].needs_ttft:
        title, shares = METRICS[objective].title, ttft_attainment(rows)
        short = shares[shares < REQUIRED_ATTAINMENT].reset_index()
        found += [
            f"'{arm}' at load {load:g} gives {share:.0%} of the requests their TTFT: its {title} is paid for by the "
            "requests that wait"
            for arm, load, share in short.itertuples(index=False)
        ]
    return found


def split(outcome: Outcome) -> Split:
    """The gain of the winner, told apart by what it needs: other flags, or our policy."""
    winner, objective = outcome.winner.name, outcome.options.objective
    rows = outcome.rows[outcome.rows["arm"].isin([winner, baselines.STOCK, baselines.DEFAULT])]
    # One form for all three: only then do the parts make the whole.
    form = gained_difference if at_floor(rows, objective) else gained_ratio
    return Split(
        stock=form(rows, baselines.STOCK, baselines.DEFAULT, objective),
        policy=form(rows, winner, baselines.STOCK, objective),
        both=form(rows, winner, baselines.DEFAULT, objective),
    )
