"""What a person reads: Rich tables of scenarios, results, tunings, policies and benchmarks. Times in milliseconds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from dspark_simulator.result import Result
    from dspark_tuning.search.comparison import Gain
    from dspark_tuning.search.summary import ArmSummary, Split
    from sglang_dspark.policy.artifact import Artifact


NOT_STEADY = "not steady"

# What a policy benchmark compares with, by its key.
BENCHED = {
    "vs_start": "start (no search)",
    "vs_argmax_same_flags": "argmax, aligned, same flags",
    "vs_argmax_own_flags": "argmax, aligned, own flags",
    "vs_argmax_default_flags": "argmax, aligned, default flags",
    "vs_default": "SGLang's defaults",
    "vs_no_spec": "no speculation",
}


def scenarios(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Scenarios with what is served, on what and under which traffic."""
    table = blank_table("scenario", "model", "hardware", "engine", "traffic", "loads")
    for row in rows:
        loads = ", ".join(f"{load:g}" for load in row["loads"])
        table.add_row(row["name"], row["model"], row["hardware"], row["engine"], row["traffic"], loads)
    return table


def steady(text: str, saturated: bool) -> str:
    """A figure that depends on the length of a saturated run is not printed as if it did not."""
    return NOT_STEADY if saturated else text


def latencies(result: Result) -> Table:
    """Measured requests, attainment, goodput and latencies of a run, overall and by class."""
    times = [f"{name} ms, p50 / p90 / p99" for name in ("TTFT", "TPOT", "ITL")]
    table = blank_table("class", numbers=["requests", "within SLOs", "goodput 1/s", *times])
    everyone = ("all", result.requests, result.attainment, result.goodput_per_s, result.ttft, result.tpot, result.itl)
    for name, requests, attainment, goodput, *parts in (
        everyone,
        *((c.name, c.requests, c.attainment, c.goodput_per_s, c.ttft, c.tpot, c.itl) for c in result.classes),
    ):
        depending = (number(goodput), *(ms(part.p50_s, part.p90_s, part.p99_s) for part in parts))
        table.add_row(name, str(requests), percent(attainment), *(steady(text, result.saturated) for text in depending))
    return table


def figures(result: Result) -> Table:
    """What the server did in the measuring window of a run."""
    table = blank_table("server", numbers=[""])
    for name, value in (
        ("throughput, tokens/s", number(result.throughput_tok_s)),
        ("accepted length, tokens a round", number(result.accepted_length)),
        ("verify length, drafts a round", number(result.verify_length)),
        ("running requests", number(result.running)),
        ("queued requests", number(result.queued)),
        ("utilisation", percent(result.utilisation)),
        ("KV pool in use", percent(result.kv_use)),
        ("steps", str(result.steps)),
        ("mean step, ms", ms(result.mean_step_s)),
        ("eager steps", str(result.eager_steps)),
        ("retracted requests", str(result.retracted)),
        ("aborted requests", str(result.aborted)),
        ("unfinished requests", str(result.unfinished)),
        ("window, simulated s", number(result.window_s)),
    ):
        table.add_row(name, value)
    return table


def tuning(rows: Iterable[ArmSummary], winner: str, title: str) -> Table:
    """Every arm of a tuning's report, and the gain over it in the metric of this title; the chosen one is bold."""
    table = blank_table(
        "arm",
        numbers=[
            "tokens/s",
            "within\nSLOs",
            "goodput\n1/s",
            "TPOT ms\np50 / p99",
            "TTFT ms\np50 / p99",
            "accepted\nlength",
            "verify\nlength",
            f"chosen over arm\n{title}",
        ],
    )
    for row in rows:
        table.add_row(
            row.arm,
            number(row.throughput_tok_s),
            percent(row.attainment),
            steady(number(row.goodput_per_s), bool(row.saturated)),
            steady(ms(row.tpot_p50_s, row.tpot_p99_s), bool(row.saturated)),
            steady(ms(row.ttft_p50_s, row.ttft_p99_s), bool(row.saturated)),
            number(row.accepted_length),
            number(row.verify_length),
            "" if row.arm == winner else gain(row.gain),
            style="bold" if row.arm == winner else None,
        )
    return table


def gains(split: Split, title: str) -> Table:
    """Where the gain over SGLang's defaults in the metric of this title is from."""
    table = blank_table(f"gain in {title} over SGLang's defaults", numbers=["gain and 95 % interval"])
    table.add_row("by what an unmodified SGLang takes", gain(split.stock))
    table.add_row("by the policy on top of it", gain(split.policy))
    table.add_row("both", gain(split.both))
    return table


def policy(artifact: Artifact) -> Table:
    """What an artifact tells the engine, and where it comes from."""
    table = blank_table("field", "value")
    for name, value in artifact.policy.model_dump().items():
        table.add_row("policy" if name == "family" else f"  {name}", _text(value))
    came = artifact.provenance
    for name, value in (
        ("serve", artifact.serve),
        ("gamma", artifact.gamma),
        ("classes", artifact.classes),
        ("scenario", f"{came.scenario}: {came.model} on {came.hardware}, {came.engine}"),
        ("objective", f"{came.objective}, {came.trials} trials"),
    ):
        table.add_row(name, _text(value))
    for name, value in (artifact.environment | artifact.server_flags).items():
        table.add_row(name, value)
    for name, value in came.search_space.items():
        table.add_row(f"searched: {name}", _text(value))
    table.add_row("advice", artifact.advice)
    return table


def evidence(artifact: Artifact) -> Table:
    """The artifact's comparison with every arm, over all loads."""
    table = blank_table("arm", "metric", numbers=["mean", "chosen over arm", "replications"])
    for row in artifact.evidence:
        if row.load is None:
            table.add_row(
                row.arm,
                row.metric,
                number(row.mean),
                _gain(row.model_dump()),
                str(row.replications),
            )
    return table


def changes(rows: Iterable[tuple[str, str, str]]) -> Table:
    """Fields in which two artifacts differ."""
    table = blank_table("field", "old", "new")
    for row in rows:
        table.add_row(*row)
    return table


def simulator_bench(found: Mapping[str, Any]) -> Table:
    """Speed and memory of the simulator by case."""
    table = blank_table("case", numbers=["requests/s", "simulated s/s", "mean batch", "RSS MB"])
    for name, case in found["cases"].items():
        table.add_row(
            name,
            number(case["requests_per_s"]),
            number(case["sim_s_per_s"]),
            number(case["mean_batch"]),
            number(case["rss_mb"]),
        )
    return table


def decisions(found: Mapping[str, Any]) -> Table:
    """Cost of a decision, both stages, by family."""
    requests = list(found["decision_us"])
    table = blank_table("budget and lengths", numbers=[f"us at {count} requests" for count in requests])
    for family in found["decision_us"][requests[0]]:
        table.add_row(family, *(number(found["decision_us"][count][family]) for count in requests))
    return table


def planner_bench(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Host time of a live decision by running requests, and what recording costs a step and a token."""
    columns = ["requests", "ours, us", "SGLang's, us", "ratio", "recording, us", "TPOT p99, ms", "recorded, ms"]
    table = blank_table(numbers=columns)
    for requests, row in found.items():
        names = ("ours_us", "upstream_us", "ratio", "recorder_us", "tpot_p99_ms", "recorded_tpot_p99_ms")
        table.add_row(requests, *(number(row[name]) for name in names))
    return table


def knees(found: Mapping[str, Any]) -> Table:
    """The knee of each arm of an open loop, and the winner's over it."""
    from dspark_tuning.measuring.bench.knee import VERSUS

    over = {arm: found[key] for key, arm in VERSUS.items()}
    table = blank_table("arm", numbers=["knee, requests/s", f"{found['winner']} / arm"])
    for row in found["rows"]:
        rate = f"{row['rate_per_s']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        table.add_row(row["arm"], rate, "" if row["arm"] == found["winner"] else _ratio(over[row["arm"]]))
    return table


def goodput_around_the_knee(found: Mapping[str, Any]) -> Table:
    """Goodput of each arm at rates around the winner's knee, and how much more the winner has."""
    rates = [f"{part['of_knee']:g} of the knee\n{part['rate_per_s']:.1f} requests/s" for part in found["goodput"]]
    table = blank_table("arm", numbers=[column for rate in rates for column in (rate, f"{found['winner']}\nless arm")])
    for rows in zip(*(part["rows"] for part in found["goodput"]), strict=True):
        cells = [(number(row["goodput_per_s"]), _gain(row)) for row in rows]
        table.add_row(rows[0]["arm"], *(cell for pair in cells for cell in pair))
    return table


def policy_bench(found: Mapping[str, Any]) -> Table:
    """The ratios of a policy benchmark over all loads."""
    table = blank_table(f"{found['winner']}, over", numbers=["throughput", "goodput"])
    for key, name in BENCHED.items():
        table.add_row(name, _gain(found[key]), _gain(found[key]["goodput"]))
    table.add_row("SGLang's defaults, high load", _gain(found["vs_default"]["high_load"]), "")
    fixed = found["vs_best_fixed_by_load"]
    table.add_row(
        f"best fixed gamma by load, at its worst ({fixed['arm']} at load {fixed['load']:g})", _gain(fixed), ""
    )
    table.add_row("no speculation, at its worst load", number(found["worst_vs_no_spec"]), "")
    return table


def policy_bench_by_load(found: Mapping[str, Any]) -> Table:
    """The same in throughput, load by load."""
    compared = BENCHED | {"vs_best_fixed_by_load": "best fixed gamma"}
    table = blank_table(numbers=["load", *compared.values()])
    for rows in zip(*(found[key]["by_load"] for key in compared), strict=True):
        table.add_row(f"{rows[0]['load']:g}", *(_gain(row) for row in rows))
    return table


def _ratio(found: Mapping[str, float]) -> str:
    return "-" if math.isnan(found["ratio"]) else interval(found["ratio"], found["low"], found["high"])


def _gain(found: Mapping[str, Any]) -> str:
    """A ratio, or the difference where there is none, with its interval."""
    low, high = found["low"], found["high"]
    if found.get("ratio") is not None:
        return interval(found["ratio"], low, high)
    return f"{found['difference']:+.2f}/s" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def number(value: float) -> str:
    """Three significant digits or more, never in powers of ten."""
    if math.isnan(value):
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def ms(*seconds: float) -> str:
    return " / ".join(number(1e3 * value) for value in seconds)


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def gain(found: Gain) -> str:
    return _gain(found._asdict())


def interval(centre: float, low: float, high: float) -> str:
    return f"{centre:.3f}" if math.isnan(low) else f"{centre:.3f} [{low:.3f}, {high:.3f}]"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)


def blank_table(*names: str, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """A table without rows: columns of text, then of numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name == "arm")
    for name in numbers:
        table.add_column(name, justify="right")
    return table
