"""The results of the sim2real experiment as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.table import Table

from dspark_tuning.measuring.sim2real.experiment import CellResult
from dspark_tuning.reporting.tables import blank_table, ms, number, percent


def rows(title: str, results: Iterable[CellResult]) -> Table:
    """Tabulate measured and predicted figures of cells."""
    table = blank_table(
        "policy",
        "load",
        numbers=[
            "tokens/s",
            "predicted",
            "error",
            "spread",
            "TPOT ms",
            "predicted",
            "error",
            "accepted",
            "predicted",
            "verified",
            "predicted",
        ],
        title=title,
    )
    for row in results:
        measured, expected = row.measured, row.predicted
        table.add_row(
            row.name,
            row.load,
            number(measured.throughput_tok_s),
            number(expected.throughput_tok_s),
            f"{row.error:+.1%}",
            f"±{row.spread:.1%}",
            ms(measured.tpot_s),
            ms(expected.tpot_s),
            f"{row.tpot_error:+.1%}",
            f"{measured.accepted_length:.2f}",
            f"{expected.accepted_length:.2f}",
            f"{measured.verify_length:.2f}",
            f"{expected.verify_length:.2f}",
        )
    return table


class Order:
    """Pairs of policies at one load that differ by more than their spread, and how many are predicted in order."""

    def __init__(self, results: Sequence[CellResult]) -> None:
        self.right = self.pairs = 0
        for i, one in enumerate(results):
            for other in results[i + 1 :]:
                if one.load != other.load:
                    continue
                apart = math.log(one.measured.throughput_tok_s / other.measured.throughput_tok_s)
                if abs(apart) <= one.spread + other.spread:
                    continue
                expected = math.log(one.predicted.throughput_tok_s / other.predicted.throughput_tok_s)
                self.pairs += 1
                self.right += (apart > 0) == (expected > 0)


def summary(results: Sequence[CellResult]) -> list[str]:
    """Summarise the prediction errors in sentences."""
    closed = [row for row in results if "1/s" not in row.load]
    order = Order(closed)
    return [
        f"Mean error of throughput {percent(fmean(abs(row.error) for row in results))}, "
        f"worst {percent(max(abs(row.error) for row in results))}; "
        f"of TPOT {percent(fmean(abs(row.tpot_error) for row in results))}, "
        f"worst {percent(max(abs(row.tpot_error) for row in results))}. "
        f"Repeats differ by {percent(fmean(row.spread for row in results))} either way.",
        f"Order: {order.right} of {order.pairs} pairs that differ by more than their spread are predicted right.",
    ]


def gains(results: Sequence[CellResult], tuned: str) -> list[str]:
    """State the gain of the tuned policy over every other serving mode, predicted and measured."""
    lines = []
    for load in dict.fromkeys(row.load for row in results):
        here = {row.name: row for row in results if row.load == load}
        best = here[tuned]
        for name, row in here.items():
            if name != tuned:
                promised = best.predicted.throughput_tok_s / row.predicted.throughput_tok_s - 1
                measured = best.measured.throughput_tok_s / row.measured.throughput_tok_s - 1
                lines.append(f"{load} clients, {tuned} over {name}: promised {promised:+.1%}, measured {measured:+.1%}")
    return lines
