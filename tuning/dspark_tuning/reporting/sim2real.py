"""What a person reads of the experiment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.table import Table

from dspark_tuning.measuring.sim2real.experiment import Row
from dspark_tuning.reporting.tables import blank_table, ms, number, percent


def rows(title: str, found: Iterable[Row]) -> Table:
    """Measured and predicted, cell by cell."""
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
    for row in found:
        measured, said = row.measured, row.predicted
        table.add_row(
            row.name,
            row.load,
            number(measured.throughput_tok_s),
            number(said.throughput_tok_s),
            f"{row.error:+.1%}",
            f"±{row.spread:.1%}",
            ms(measured.tpot_s),
            ms(said.tpot_s),
            f"{row.tpot_error:+.1%}",
            f"{measured.accepted_length:.2f}",
            f"{said.accepted_length:.2f}",
            f"{measured.verify_length:.2f}",
            f"{said.verify_length:.2f}",
        )
    return table


class Order:
    """Whether pairs of policies at one load come in the same order, where they differ by more than their spread."""

    def __init__(self, found: Sequence[Row]) -> None:
        self.right = self.pairs = 0
        for i, one in enumerate(found):
            for other in found[i + 1 :]:
                if one.load != other.load:
                    continue
                apart = math.log(one.measured.throughput_tok_s / other.measured.throughput_tok_s)
                if abs(apart) <= one.spread + other.spread:
                    continue
                said = math.log(one.predicted.throughput_tok_s / other.predicted.throughput_tok_s)
                self.pairs += 1
                self.right += (apart > 0) == (said > 0)


def summary(found: Sequence[Row]) -> list[str]:
    """The errors in a sentence or two."""
    closed = [row for row in found if "1/s" not in row.load]
    order = Order(closed)
    return [
        f"Mean error of throughput {percent(fmean(abs(row.error) for row in found))}, "
        f"worst {percent(max(abs(row.error) for row in found))}; "
        f"of TPOT {percent(fmean(abs(row.tpot_error) for row in found))}, "
        f"worst {percent(max(abs(row.tpot_error) for row in found))}. "
        f"Repeats differ by {percent(fmean(row.spread for row in found))} either way.",
        f"Order: {order.right} of {order.pairs} pairs that differ by more than their spread are predicted right.",
    ]


def gains(found: Sequence[Row], tuned: str) -> list[str]:
    """What the tuned policy gains over each other way, as promised and as measured."""
    lines = []
    for load in dict.fromkeys(row.load for row in found):
        here = {row.name: row for row in found if row.load == load}
        best = here[tuned]
        for name, row in here.items():
            if name != tuned:
                promised = best.predicted.throughput_tok_s / row.predicted.throughput_tok_s - 1
                measured = best.measured.throughput_tok_s / row.measured.throughput_tok_s - 1
                lines.append(f"{load} clients, {tuned} over {name}: promised {promised:+.1%}, measured {measured:+.1%}")
    return lines
