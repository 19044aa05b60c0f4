"""What a user gets against what the deployment gives, by load."""

from __future__ import annotations

from dspark_tuning.reporting.page import Section, figure
from dspark_tuning.reporting.plots import arm_lines, drawing
from dspark_tuning.reporting.tuning.by_load import mean_table
from dspark_tuning.search.objectives import SPEED, THROUGHPUT
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    rows = outcome.rows.assign(speed=1 / outcome.rows["tpot_mean_s"])
    points = rows.groupby(["arm", "load"], sort=False)[["throughput_tok_s", "speed"]].mean().reset_index()
    drawn = drawing(f"Speed of a user, {SPEED.unit}", f"Throughput, {THROUGHPUT.unit}")
    arm_lines(drawn, points, "speed", "throughput_tok_s")
    drawing_of = figure(
        "frontier-by-arm",
        drawn,
        "Throughput against the speed that a user sees (1/mean TPOT), a point a load, joined in order of load. Up and "
        "to the right is better.",
        mean_table(outcome, f"Speed of a user, {SPEED.unit}", rows["speed"]),
        mean_table(outcome, f"Throughput, {THROUGHPUT.unit}", rows["throughput_tok_s"]),
    )
    return Section("frontier", "Throughput against speed", [drawing_of])
