"""A tuning's outcome in few figures: each arm over the whole report set, and where the gain comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dspark_tuning import arms
from dspark_tuning.compare import Ratio, gain

if TYPE_CHECKING:
    from dspark_tuning.tune import Outcome


class ArmSummary(NamedTuple):
    """One arm over the report set.

    Figures are means over its cells, every load and replication counting the same; percentiles are those of a cell.

    Attributes:
        gain: The tuned policy over this arm in :func:`metric`, geometric mean over loads and paired replications.
    """

    arm: str
    throughput_tok_s: float
    goodput_per_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    accepted_length: float
    verify_length: float
    gain: Ratio


class Split(NamedTuple):
    """The gain over DSPARK as it comes, in two factors whose product it is.

    Attributes:
        flags: Tuned server flags without a policy, over DSPARK as it comes.
        policy: The tuned policy over the same flags without one.
    """

    flags: Ratio
    policy: Ratio
    both: Ratio


def metric(outcome: Outcome) -> str:
    """What gains are told in: ``goodput`` where that was the objective, else ``throughput``."""
    return "goodput" if outcome.options.objective == "goodput" else "throughput"


def summaries(outcome: Outcome) -> list[ArmSummary]:
    """Every arm of the report, in the order of the report."""
    figures = list(ArmSummary._fields[1:-1])
    means = outcome.rows.groupby("arm", sort=False)[figures].mean()
    winner = outcome.winner.name
    rows, told = outcome.rows, metric(outcome)
    return [ArmSummary._make((arm, *means.loc[arm], gain(rows, winner, str(arm), told))) for arm in means.index]


def split(outcome: Outcome) -> Split:
    """The gain of the winner, told apart by what it needs: other flags, or our policy."""
    rows, winner, told = outcome.rows, outcome.winner.name, metric(outcome)
    return Split(
        flags=gain(rows, arms.TUNED_FLAGS, arms.DEFAULT, told),
        policy=gain(rows, winner, arms.TUNED_FLAGS, told),
        both=gain(rows, winner, arms.DEFAULT, told),
    )
