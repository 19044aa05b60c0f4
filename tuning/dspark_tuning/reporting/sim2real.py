"""Tables and sentences of ``dspark sim2real``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from dspark_tuning.measuring.sim2real.experiment import CellResult
from dspark_tuning.reporting.numbers import milliseconds, number, percent
from dspark_tuning.reporting.table import Table, Words

LENGTHS = (
    "Accepted lengths of servers that do not record are counted by clients, to whom the last round of an output "
    "delivers only what the output still needs."
)


def cells(title: str, rows: Iterable[CellResult]) -> Table:
    """Measured and predicted values by cell."""
    columns = [
        "Policy", Words("Load"), "Tokens/s", "Predicted", "Error", "Spread", "TPOT ms", "Predicted", "Error",
        "Accepted", "Predicted", "Verified", "Predicted",
    ]  # fmt: skip
    table = []
    for row in rows:
        measured, predicted = row.measured, row.predicted
        table.append(
            [
                row.name,
                row.load,
                number(measured.throughput_tok_s),
                number(predicted.throughput_tok_s),
                f"{row.error:+.1%}",
                f"\N{PLUS-MINUS SIGN}{row.spread:.1%}",
                milliseconds(measured.tpot_s),
                milliseconds(predicted.tpot_s),
                f"{row.tpot_error:+.1%}",
                *map(
                    number,
                    (
                        measured.accepted_length,
                        predicted.accepted_length,
                        measured.verify_length,
                        predicted.verify_length,
                    ),
                ),
            ]
        )
    return Table(title, columns, table)


class Order:
    """Pairs of policies at one load that differ by more than their spread, and how many are predicted in order."""

    def __init__(self, rows: Sequence[CellResult]) -> None:
        self.right = self.pairs = 0
        for i, one in enumerate(rows):
            for other in rows[i + 1 :]:
                if one.load != other.load:
                    continue
                apart = math.log(one.measured.throughput_tok_s / other.measured.throughput_tok_s)
                if abs(apart) <= one.spread + other.spread:
                    continue
                predicted = math.log(one.predicted.throughput_tok_s / other.predicted.throughput_tok_s)
                self.pairs += 1
                self.right += (apart > 0) == (predicted > 0)


def summary(rows: Sequence[CellResult]) -> list[str]:
    """Errors and order of the predictions, in two sentences."""
    closed = [row for row in rows if "1/s" not in row.load]
    order = Order(closed)
    return [
        f"Mean error of throughput {percent(fmean(abs(row.error) for row in rows))}, "
        f"worst {percent(max(abs(row.error) for row in rows))}; "
        f"of TPOT {percent(fmean(abs(row.tpot_error) for row in rows))}, "
        f"worst {percent(max(abs(row.tpot_error) for row in rows))}. "
        f"Repeats differ by {percent(fmean(row.spread for row in rows))}.",
        f"Order: {order.right} of {order.pairs} pairs that differ by more than their spread are predicted right.",
    ]


def gains(rows: Sequence[CellResult], tuned: str) -> list[str]:
    """Predicted and measured gain of the tuned policy over every other serving mode."""
    lines = []
    for load in dict.fromkeys(row.load for row in rows):
        at_load = {row.name: row for row in rows if row.load == load}
        best = at_load[tuned]
        for name, row in at_load.items():
            if name != tuned:
                promised = best.predicted.throughput_tok_s / row.predicted.throughput_tok_s - 1
                measured = best.measured.throughput_tok_s / row.measured.throughput_tok_s - 1
                lines.append(f"{load} clients, {tuned} over {name}: promised {promised:+.1%}, measured {measured:+.1%}")
    return lines
