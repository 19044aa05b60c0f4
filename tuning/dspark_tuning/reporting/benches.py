"""Tables of ``dspark bench``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspark_tuning.reporting.numbers import gain_text, number
from dspark_tuning.reporting.table import Table

# The arms that a policy benchmark compares the tuned policy with, by key.
COMPARED = {
    "vs_start": "start (no search)",
    "vs_argmax_same_flags": "argmax, aligned, same flags",
    "vs_argmax_own_flags": "argmax, aligned, own flags",
    "vs_argmax_default_flags": "argmax, aligned, default flags",
    "vs_default": "SGLang's defaults",
    "vs_no_spec": "no speculation",
}


def simulator_bench(bench: Mapping[str, Any]) -> list[Table]:
    """Speed and memory of the simulator by case; time of a verify decision, both stages, by policy family."""
    cases = [
        [name, *(number(case[key]) for key in ("requests_per_s", "sim_s_per_s", "mean_batch", "rss_mb"))]
        for name, case in bench["cases"].items()
    ]
    by_requests = bench["decision_us"]
    families = next(iter(by_requests.values()))
    decisions = [[family, *(number(times[family]) for times in by_requests.values())] for family in families]
    return [
        Table("Simulator", ["Case", "Requests/s", "Simulated s/s", "Mean batch", "RSS, MB"], cases),
        Table(
            "Budget and verify lengths of a step, us", ["Family", *(f"{n} requests" for n in by_requests)], decisions
        ),
    ]


def planner_bench(bench: Mapping[str, Mapping[str, float]]) -> Table:
    """Host time of a live decision by running requests, and the cost of recording in a step and in TPOT."""
    columns = {
        "ours_us": "Ours, us",
        "upstream_us": "SGLang's, us",
        "ratio": "Ratio",
        "recorder_us": "Recording, us",
        "tpot_p99_ms": "TPOT p99, ms",
        "recorded_tpot_p99_ms": "The same, recorded",
    }
    rows = [[requests, *(number(row[key]) for key in columns)] for requests, row in bench.items()]
    return Table("Decision of a step", ["Requests", *columns.values()], rows)


def knees(bench: Mapping[str, Any]) -> list[Table]:
    """The knee of each arm of an open loop, and goodput around the tuned policy's knee."""
    from dspark_tuning.measuring.bench.knee import VERSUS

    winner = bench["winner"]
    over = {arm: gain_text(bench[key]) for key, arm in VERSUS.items()}
    rates = [
        [
            row["arm"],
            f"{row['rate_per_s']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            "" if row["arm"] == winner else over[row["arm"]],
        ]
        for row in bench["rows"]
    ]
    at = [f"{part['of_knee']:g} of the knee, {part['rate_per_s']:.1f} requests/s" for part in bench["goodput"]]
    goodput = [
        [rows[0]["arm"], *(cell for row in rows for cell in (number(row["goodput_per_s"]), gain_text(row)))]
        for rows in zip(*(part["rows"] for part in bench["goodput"]), strict=True)
    ]
    return [
        Table("Knee with its 95 % interval", ["Arm", "Requests/s", f"{winner} / arm"], rates),
        Table(
            "Goodput around the knee",
            ["Arm", *(column for rate in at for column in (rate, f"{winner} less arm"))],
            goodput,
        ),
    ]


def policy_bench(bench: Mapping[str, Any]) -> list[Table]:
    """Ratios of the tuned policy in a closed loop, over all loads and load by load."""
    fixed = bench["vs_best_fixed_by_load"]
    total = [[name, gain_text(bench[key]), gain_text(bench[key]["goodput"])] for key, name in COMPARED.items()]
    total += [
        ["SGLang's defaults, high load", gain_text(bench["vs_default"]["high_load"]), ""],
        [
            f"best fixed gamma by load, at its worst ({fixed['arm']} at load {fixed['load']:g})",
            gain_text(fixed),
            "",
        ],
        ["no speculation, at its worst load", number(bench["worst_vs_no_spec"]), ""],
    ]
    by_load = COMPARED | {"vs_best_fixed_by_load": "best fixed gamma"}
    rows = [
        [f"{same[0]['load']:g}", *map(gain_text, same)]
        for same in zip(*(bench[key]["by_load"] for key in by_load), strict=True)
    ]
    return [
        Table("Gain over all loads", [f"{bench['winner']}, over", "Throughput", "Goodput"], total),
        Table("Gain in throughput", ["Load", *by_load.values()], rows),
    ]
