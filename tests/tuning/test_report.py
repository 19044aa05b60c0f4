"""The report of a tuning: its HTML, tables and charts against known values."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats
from typer.testing import CliRunner

from dspark_simulator import scenario as scenarios
from dspark_simulator.deployment import Live
from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.cli import app
from dspark_tuning.reporting import page
from dspark_tuning.reporting.deployment import step_times, truths
from dspark_tuning.reporting.policy import step_time_s, survival_needed
from dspark_tuning.reporting.tuning import render
from dspark_tuning.reporting.tuning.history import importances
from dspark_tuning.reporting.tuning.provenance import command, without_secrets
from dspark_tuning.search import baselines, summary
from dspark_tuning.search.artifact import advise
from dspark_tuning.search.comparison import compare
from dspark_tuning.search.objectives import Objective
from dspark_tuning.search.space import Space
from dspark_tuning.search.timeline import Timeline
from dspark_tuning.search.traced_run import LATENCIES, QUANTILES, TracedCell, sample_loads
from dspark_tuning.search.tune import Options, Outcome
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Argmax, Engine, Fixed, SpsAdditiveTable, SpsTable, Threshold, compile_rule
from sglang_dspark.policy.artifact import Artifact, Provenance
from sglang_dspark.policy.capture import sglang_tiers
from sglang_dspark.policy.families import Static
from sglang_dspark.policy.families.threshold import theta_at
from tests.tuning.report_page import Page, check_nothing_is_loaded, check_readable

HOSTILE = """</script><script>alert(1)</script><img src="http://evil.example/x" onerror='alert(2)'>&amp;"""
SEEDS = range(2, 62, 3)
LOADS = (1.0, 16.0, 64.0)
# Throughput of each arm where nothing varies, tokens/s at load 1.
THROUGHPUT = {
    baselines.PLAIN: 100.0,
    baselines.DEFAULT: 200.0,
    baselines.TUNED_FLAGS: 240.0,
    baselines.fixed_name(1): 150.0,
    baselines.fixed_name(7): 230.0,
    baselines.STATIC: 250.0,
    baselines.GREEDY: 245.0,
    baselines.ARGMAX: 260.0,
    baselines.ALIGNED: 264.0,
    baselines.ALIGNED_DEFAULT_FLAGS: 210.0,
    baselines.ORACLE: 400.0,
    baselines.TUNED: 300.0,
    baselines.STOCK: 270.0,
}
THRESHOLD = Threshold(running=(1, 8, 32), theta=(0.05, 0.2, 0.5), weight=(1.0, 2.0), fill=True, off_above=40)


def rows(winner: str = baselines.TUNED, seeds: range = SEEDS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = []
    for arm, load, seed in product(THROUGHPUT, LOADS, seeds):
        if winner != baselines.TUNED and arm == baselines.TUNED:
            continue
        throughput = THROUGHPUT[arm] * load * math.exp(0.02 * rng.standard_normal())
        found.append(
            {
                "arm": arm, "load": load, "seed": seed, "overhead_s": 0.004, "slope": 1.0, "requests": 50,
                "window_s": 10.0, "saturated": False, "backlog_growth": 0, "attainment": 0.9, "ttft_attainment": 0.96,
                "throughput_tok_s": throughput, "goodput_per_s": throughput / 300,
                "tpot_mean_s": load / throughput, "tpot_p50_s": load / throughput, "tpot_p99_s": 0.0321,
                "ttft_p50_s": 0.0456, "ttft_p99_s": 0.0789, "accepted_length": 3.21, "verify_length": 4.56,
                "unfinished": 0, "aborted": 0, "retracted": 0,
            }
        )  # fmt: skip
    return pd.DataFrame(found)


@cache
def measured(winner: str, seeds: range, objective: Objective) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = rows(winner, seeds)
    return found, compare(found, winner, objective)


def trials(space: Space, count: int = 60) -> pd.DataFrame:
    """Trials whose score depends on ``gamma`` alone."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(count):
        family = "threshold" if number % 2 else "argmax"
        params = {name: _any(choice, rng) for name, choice in (space.families[family] | space.server).items()}
        params |= space.pins
        score = 5.0 + 0.1 * params["gamma"]
        rungs = {f"rung_{rung}": score for rung in range(3 - number % 3)}
        state = "complete" if len(rungs) == 3 else "pruned"
        found.append({"number": number, "state": state, **rungs, "family": family, **params})
    return pd.DataFrame(found)


def _any(choice: Any, rng: np.random.Generator) -> Any:
    if isinstance(choice, CategoricalDistribution):
        return choice.choices[int(rng.integers(len(choice.choices)))]
    if isinstance(choice, IntDistribution):
        return int(rng.integers(choice.low, choice.high + 1))
    assert isinstance(choice, FloatDistribution)
    return float(rng.uniform(choice.low, choice.high))


def outcome(
    name: str = baselines.TUNED,
    policy: Any = THRESHOLD,
    belief: Any = None,
    scenario: Scenario | None = None,
    options: Options | None = None,
    seeds: range = SEEDS,
    **server: Any,
) -> Outcome:
    scenario = scenario or scenarios.load("b300-v4flash").model_copy(update={"loads": LOADS})
    options = options or Options(Path("runs/a"), trials=60)
    space = Space(scenario, options.pins)
    flags = scenario.server.model_copy(update={"verify_mode": "compact", "max_running_requests": 128} | server)
    found, versus = measured(name, seeds, options.objective)
    classes = tuple(klass.name for klass in scenario.workload.classes)
    artifact = Artifact(
        policy=policy or Fixed(length=7),
        gamma=7,
        classes=classes,
        sts_temperatures=(1.0,) * 7,
        cost_belief=space.beliefs[scenario.drafter_gamma],
        server_flags={"--max-running-requests": "128"},
        environment={"SGLANG_RAGGED_VERIFY_MODE": "compact"},
        advice=f"Serve {scenario.name} so.",
        provenance=Provenance(
            scenario=scenario.name,
            hardware=scenario.hardware,
            model=scenario.model,
            engine="sglang",
            workload={},
            slo={},
            objective=options.objective,
            simulator_version="0.1.0",
            truths={},
            seeds={"report": list(seeds)},
            trials=60,
            search_space=space.describe(),
        ),
        evidence=(),
    )
    arm = Arm(name, flags, policy, belief)
    stock = Arm(baselines.STOCK, flags, Argmax(fill=True), space.beliefs[scenario.drafter_gamma], stock=True)
    beside = (
        (name, baselines.DEFAULT, baselines.PLAIN)
        if name not in (baselines.DEFAULT, baselines.PLAIN)
        else (baselines.DEFAULT, baselines.PLAIN)
    )
    runs = tuple(traced(arm, load) for load in sample_loads(scenario.loads) for arm in beside)
    return Outcome(scenario, options, arm, flags, trials(space), found, versus, artifact, stock, runs)


def traced(arm: str, load: float) -> TracedCell:
    """A run whose values encode its arm and load: latency quantile q is q times a scale."""
    scale = load + list(THROUGHPUT).index(arm) / 100
    at_s = np.arange(1.0, 6.0)
    timeline = Timeline(at_s, at_s + scale, at_s + 2 * scale, at_s / 8, at_s / 100)
    kinds = zip(LATENCIES, (0.1, 0.01, 0.001), strict=True)
    return TracedCell(arm, load, 2, timeline, {kind: np.array(QUANTILES) * scale * unit for kind, unit in kinds})


def hostile() -> Outcome:
    plain = scenarios.load("b300-v4flash")
    classes = tuple(klass.model_copy(update={"name": f"{klass.name}{HOSTILE}"}) for klass in plain.workload.classes)
    scenario = plain.model_copy(
        update={
            "name": HOSTILE, "description": HOSTILE, "model": HOSTILE, "hardware": HOSTILE, "loads": LOADS,
            "workload": plain.workload.model_copy(update={"classes": classes}),
        }
    )  # fmt: skip
    storage = "postgresql://me:hunter2@db/" + HOSTILE
    return outcome(scenario=scenario, options=Options(Path(HOSTILE), storage=storage, pins={"gamma": 5}))


def figures(cell: str) -> list[float]:
    """The numbers of ``1.034 [1.021, 1.047]``."""
    return [float(part) for part in re.findall(r"[\d.]+", cell)]


def digest() -> str:
    return hashlib.sha256(render(outcome()).encode()).hexdigest()


@pytest.fixture(scope="module")
def text() -> str:
    return render(outcome())


@pytest.fixture(scope="module")
def report(text: str) -> Page:
    return Page(text)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], Page]:
    """Render without Plotly's script, which takes most of the time and is the same on every page."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")
    return lambda told: Page(render(told))


def test_same_bytes_whatever_the_hash_seed() -> None:
    code = "from tests.tuning.test_report import digest; print(digest())"
    root = Path(__file__).parents[2]
    other = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, cwd=root
    )
    assert other.stdout.strip() == digest(), other.stderr


def test_page_is_whole(text: str, report: Page) -> None:
    check_nothing_is_loaded(text, report)
    check_readable(report)
    parts = ["asked", "answer", "baselines", "loads", "policy", "frontier", "runs", "search", "provenance"]
    assert [section["id"] for section in report.of("section")] == parts


def test_says_that_it_is_simulated(report: Page) -> None:
    assert "All figures on this page are simulated. Nothing was measured on a GPU here" in report.text
    assert "Interpolated between measurements" in report.text
    live = truths(Live(overhead_s=(0.003, 0.009), slope=(0.9, 1.1)))
    assert live.startswith("3.00 to 9.00 ms more a step than profiled, verify time times 0.9 to 1.1")
    assert truths(outcome().scenario.live) in report.text
    assert "is added at rates that the scenario gives" in report.text
    text = step_times(scenarios.load("h200-qwen3-8b"))
    assert text.startswith("Computed, not measured: a roofline") and "H200" in text


def test_every_arm_and_its_figures_are_in_the_table(report: Page) -> None:
    table = report.table("Means over the 60 report cells of each arm")
    data = rows()
    for arm in THROUGHPUT:
        cells = table[f"{arm} (chosen)" if arm == baselines.TUNED else arm]
        part = data[data["arm"] == arm]
        assert cells[0] == f"{part['throughput_tok_s'].mean():,.0f}"
        assert cells[1] == "90.0 %"
        assert float(cells[2]) == pytest.approx(part["goodput_per_s"].mean(), rel=0.01)
        assert float(cells[3]) == pytest.approx(1e3 * part["tpot_p50_s"].mean(), rel=0.01)
        assert cells[4:9] == ["32.1", "45.6", "78.9", "3.21", "4.56"]
    assert table[f"{baselines.TUNED} (chosen)"][9:] == ["", ""]


def test_intervals_are_those_of_students_t(report: Page) -> None:
    data = rows().assign(log=lambda x: np.log(x["throughput_tok_s"]))
    logs = data.groupby(["arm", "seed"])["log"].mean().unstack("arm")
    for arm in set(THROUGHPUT) - {baselines.TUNED}:
        gain = logs[baselines.TUNED] - logs[arm]
        low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
        found = report.table("Means over the 60 report cells of each arm")[arm][9]
        assert figures(found) == pytest.approx(np.exp([gain.mean(), low, high]), rel=2e-3)


def test_gain_is_the_product_of_an_unmodified_server_and_the_policy(report: Page) -> None:
    table = report.table("Where the gain comes from")
    stock, policy, both, plain = (figures(cells[0])[0] for cells in list(table.values())[1:])
    assert stock == pytest.approx(1.35, rel=0.01)
    assert policy == pytest.approx(1.11, rel=0.01)
    assert both == pytest.approx(stock * policy, rel=0.002)
    assert plain == pytest.approx(3.0, rel=0.01)
    assert f"{stock:.3f} [" in report.text and f"{policy:.3f} [" in report.text


@pytest.mark.parametrize("metric", ["throughput", "goodput"])
def test_drawing_and_table_by_load_agree(report: Page, metric: str) -> None:
    traces = report.drawing(f"{metric}-by-load")
    table = report.table(f"{metric.capitalize()} as a ratio to that of {baselines.DEFAULT}, with")
    assert {trace["name"] for trace in traces} == {arm for arm in THROUGHPUT if "fixed" not in arm} | {"fixed lengths"}
    for trace in traces:
        name = baselines.fixed_name(int(trace["text"][0])) if trace["name"] == "fixed lengths" else trace["name"]
        assert trace["y"] == pytest.approx([THROUGHPUT[name] / THROUGHPUT[baselines.DEFAULT]] * 3, rel=0.03)
        assert [figures(cell)[0] for cell in table[name]] == pytest.approx(trace["y"], rel=3e-3)
        # Arms drawn side by side are still nearest to their own load.
        assert np.abs(np.log2(np.array(trace["x"]) / LOADS)).max() < 0.5
        assert trace["customdata"] == list(LOADS)


def test_strong_is_what_an_interval_tells_from_one(report: Page) -> None:
    cells = {cell for table in report.tables.values() for cells in table.values() for cell in cells if "[" in cell}
    apart = {cell for cell in cells if (found := figures(cell))[1] > 1 or found[2] < 1}
    assert apart and cells - apart
    assert {text for text in report.strong if "[" in text} == apart


def test_lines_are_told_apart_without_colour(report: Page) -> None:
    looks = {
        trace["name"]: (trace["line"]["dash"], trace["marker"]["symbol"]) for trace in report.drawing("frontier-by-arm")
    }
    assert len(looks) == len(set(looks.values())) == len(THROUGHPUT) - 1


def test_frontier_is_throughput_over_the_speed_of_a_user(report: Page) -> None:
    data = rows()
    (tuned,) = [trace for trace in report.drawing("frontier-by-arm") if trace["name"] == baselines.TUNED]
    part = data[data["arm"] == baselines.TUNED].groupby("load")
    assert tuned["x"] == pytest.approx(part["tpot_mean_s"].apply(lambda tpot_s: (1 / tpot_s).mean()).tolist())
    assert tuned["y"] == pytest.approx(part["throughput_tok_s"].mean().tolist())


def test_threshold_is_drawn_as_the_engine_applies_it(report: Page) -> None:
    rule = compile_rule(THRESHOLD, Engine(7, sglang_tiers(128, 7), 128, None))
    traces = {trace["name"]: trace for trace in report.drawing("threshold")}
    assert list(traces) == ["chat", "code"]
    for (name, trace), weight in zip(traces.items(), THRESHOLD.weight, strict=True):
        assert trace["x"][0] == 1 and trace["x"][-1] == THRESHOLD.off_above
        expected = [theta_at(rule[0], int(requests)) / weight for requests in trace["x"]]
        assert trace["y"] == pytest.approx(expected), name


def test_price_raises_the_threshold_of_long_contexts(read: Callable[[Outcome], Page]) -> None:
    priced = THRESHOLD.model_copy(update={"price_per_token": 1e-4})
    short, long = (survival_needed(priced, np.array([8]), 2.0, context)[0] for context in (0, 5000))
    assert (short, long) == pytest.approx((0.1, 0.15))
    names = [trace["name"] for trace in read(outcome(policy=priced)).drawing("threshold")]
    assert names == [
        f"{klass}: {context} tokens of context" for klass in ("chat", "code") for context in ("0", "8,192")
    ]


def test_classes_of_one_weight_have_one_line(read: Callable[[Outcome], Page]) -> None:
    made = read(outcome(policy=THRESHOLD.model_copy(update={"weight": (1.0, 1.0)})))
    assert [trace["name"] for trace in made.drawing("threshold")] == ["chat, code"]
    assert "Its context does not matter." in made.text


def test_belief_is_drawn_beside_the_profile(read: Callable[[Outcome], Page]) -> None:
    profile = Space(scenarios.load("b300-v4flash"), {}).beliefs[5]
    made = read(outcome(policy=Argmax(fill=True), belief=profile.corrected(0.005, 1.0)))
    traces = {trace["name"]: trace for trace in made.drawing("belief")}
    for requests in ("1 request", "16 requests", "64 requests"):
        belief, known = traces[f"belief, {requests}"], traces[f"profile, {requests}"]
        assert belief["x"] == known["x"] == [int(requests.split()[0]) * tokens for tokens in range(1, 7)]
        assert np.array(belief["y"]) - known["y"] == pytest.approx(np.full(6, 5.0))


def test_step_time_of_both_table_forms() -> None:
    additive = SpsAdditiveTable(
        bias_seconds=0.004, bs_probes=(1, 3), alpha_seconds=(0.0, 0.002), m_probes=(2, 6), theta_seconds=(0.01, 0.03)
    )
    assert step_time_s(additive, 2, np.array([2, 4, 9])) == pytest.approx([0.015, 0.025, 0.035])
    floor = SpsTable(sample_batch_tokens=(1, 4), sample_steps_per_sec=(100.0, 50.0), max_batch_tokens=8)
    assert step_time_s(floor, 2, np.array([3, 4, 7])) == pytest.approx([0.01, 0.02, 0.02])


@pytest.mark.parametrize(("place", "load"), list(enumerate(LOADS)))
def test_distributions_are_drawn_and_told_alike(report: Page, place: int, load: float) -> None:
    traces = report.drawing(f"latencies-{place}")
    tables = [table for text, table in report.all_tables if text.startswith("Percentiles in ms")]
    for axis, (kind, unit) in enumerate(zip(LATENCIES, (0.1, 0.01, 0.001), strict=True), 1):
        for arm in (baselines.TUNED, baselines.DEFAULT, baselines.PLAIN):
            (trace,) = [t for t in traces if t["name"] == arm and t["yaxis"] == ("y" if axis == 1 else f"y{axis}")]
            scale_ms = 1e3 * unit * (load + list(THROUGHPUT).index(arm) / 100)
            assert trace["x"] == pytest.approx([q * scale_ms for q in trace["y"]])
            told = [float(cell.replace(",", "")) for cell in tables[place][f"{kind.upper()}, {arm}"]]
            assert told == pytest.approx([scale_ms * q for q in (0.1, 0.5, 0.9, 0.95, 0.99)], rel=0.006)
    # The service levels of the packaged scenario: 1 s and 20 ms for both classes.
    assert [(t["x"], t["yaxis"]) for t in traces if t["name"] == "service levels"] == [
        ([1000.0, 1000.0], "y"), ([20.0, 20.0], "y2"),
    ]  # fmt: skip


def test_timelines_are_drawn_and_told_alike(report: Page) -> None:
    fields = {"y": "running", "y2": "queued", "y3": "verify_length", "y4": "kv_share"}
    for place, load in enumerate(LOADS):
        traces = report.drawing(f"timeline-{place}")
        assert len(traces) == 3 * len(fields) and len({t["line"]["dash"] for t in traces}) >= 2
        assert len({(t["line"]["dash"], t["marker"]["symbol"]) for t in traces}) == 3
        for arm in (baselines.TUNED, baselines.DEFAULT, baselines.PLAIN):
            run = traced(arm, load).timeline
            for axis, field in fields.items():
                (trace,) = [t for t in traces if t["name"] == arm and t["yaxis"] == axis]
                assert trace["x"] == run.at_s.tolist() and trace["y"] == getattr(run, field).tolist()
            told = [table for text, table in report.all_tables if text == f"{arm}, by seconds"][place]
            assert float(told["3.00"][0]) == pytest.approx(run.running[2], rel=0.006)
            assert float(told["3.00"][3]) == pytest.approx(run.kv_share[2], rel=0.006)


def test_search_history_shows_every_trial_once(report: Page) -> None:
    drawn = {trace["name"]: trace for trace in report.drawing("search-history")}
    table = report.table("Every trial")
    numbers = [number for name, trace in drawn.items() if name != "best so far" for number in trace["x"]]
    assert sorted(numbers) == list(range(60)) and len(table) == 61
    best = [score for score in drawn["best so far"]["y"] if score is not None]
    assert best == sorted(best) and best[-1] == pytest.approx(max(drawn["finished"]["y"]))
    assert [cells[-1] for cells in list(report.table("The ladder").values())[1:]] == ["60", "40", "20"]


def test_importance_finds_what_decided_the_score(report: Page) -> None:
    for family in ("threshold", "argmax"):
        shares = {name: figures(cells[0])[0] for name, cells in list(report.table(f"{family}: importance").items())[1:]}
        assert next(iter(shares)) == "gamma" and shares["gamma"] > 0.3
        assert sum(shares.values()) == pytest.approx(1, abs=0.05)
    flat = pd.DataFrame(
        {"rung_0": [1.0, 2.0, 3.0] * 10, "size": [64.0, 128.0, 256.0] * 10, "other": [True, False] * 15}
    )
    choices = {"size": CategoricalDistribution((64, 128, 256)), "other": CategoricalDistribution((True, False))}
    assert importances(flat, choices)["size"] > 0.9


def test_hostile_names_stay_text(report: Page, read: Callable[[Outcome], Page]) -> None:
    told = hostile()
    made = read(told)
    assert len(made.of("script")) == len(report.of("script"))
    assert not made.of("img")
    assert not [name for _, attributes in made.elements for name in attributes if name.startswith("on")]
    assert made.text.count(HOSTILE) >= 5
    assert any(HOSTILE in header for header in made.table("Request classes"))
    # Plotly interprets HTML in names, so names are escaped twice.
    assert {trace["name"] for trace in made.drawing("threshold")} == {
        klass.name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for klass in told.scenario.workload.classes
    }


def test_a_hostile_arm_stays_text(read: Callable[[Outcome], Page]) -> None:
    told = outcome()
    told = told._replace(
        rows=told.rows.replace(baselines.GREEDY, HOSTILE), versus=told.versus.replace(baselines.GREEDY, HOSTILE)
    )
    made = read(told)
    assert not made.of("img")
    assert HOSTILE in made.table("Means over")


def test_command_asks_the_same_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def tune(scenario: Scenario, options: Options, *_: object) -> Outcome:
        asked.extend([scenario, options])
        raise InputError("enough")

    monkeypatch.setattr("dspark_tuning.search.tune.tune", tune)
    pins = {"gamma": 5, "fill": False, "verify_mode": "cap-accept", "theta_1": 0.25}
    options = Options(tmp_path / "a b", "tpot", trials=32, replications=7, seed=3, storage="sqlite:///x.db", pins=pins)
    words = shlex.split(command(["b300-v4flash", "--load", "4", "--load", "32"], options))
    assert words.pop(0) == "dspark"
    assert CliRunner().invoke(app, [*words, "--workers", "1"]).exit_code != 0
    assert asked == [scenarios.load("b300-v4flash").model_copy(update={"loads": (4.0, 32.0)}), options]


def test_storage_keeps_its_secrets(read: Callable[[Outcome], Page]) -> None:
    assert without_secrets("postgresql://me:pw@db:5432/x?password=pw") == "postgresql://me:***@db:5432/x"
    assert without_secrets("sqlite:///runs/a.db") == "sqlite:///runs/a.db"
    assert not [code for code in read(hostile()).codes if "hunter2" in code]


def test_report_names_the_scenario_or_holds_it(report: Page, read: Callable[[Outcome], Page]) -> None:
    assert any("/scenario.yaml --objective" in code for code in report.codes)
    other = scenarios.load("b300-v4flash").model_copy(update={"gpus": 3})
    codes = read(outcome(scenario=other)).codes
    (found,) = [code for code in codes if "\nname:" in code]
    assert scenarios.parse(found, "report", Path()) == other
    assert any("/scenario.yaml --objective" in code for code in codes)


@pytest.mark.parametrize(
    ("name", "policy"),
    [(baselines.PLAIN, None), (baselines.STATIC, Static(theta=0.3))],
)
def test_a_baseline_may_win(name: str, policy: Any, read: Callable[[Outcome], Page]) -> None:
    made = read(outcome(name, policy))
    assert f"{name} (chosen)" in made.table("Means over")
    assert ("schedules nothing" in made.text) == (policy is None)


def test_an_open_loop_with_one_load_and_few_replications(read: Callable[[Outcome], Page]) -> None:
    plain = scenarios.load("b300-v4flash")
    scenario = plain.with_workload(plain.workload.with_rate(3.0)).model_copy(update={"loads": LOADS})
    made = read(outcome(scenario=scenario, seeds=range(3), options=Options(Path("x"), objective="front")))
    # Too few for an interval: the ratio stands alone.
    assert all("[" not in cell for cells in made.table("Where the gain comes from").values() for cell in cells)
    assert "factor on the scenario's rate" in made.text


def test_arms_whose_backlog_grew_are_named(read: Callable[[Outcome], Page]) -> None:
    made = outcome()
    rows = made.rows.copy()
    at = (rows["arm"] == baselines.PLAIN) & (rows["load"] == LOADS[-1])
    rows.loc[at, ["saturated", "backlog_growth"]] = True, 321
    # A single replication of another arm is chance, not overload.
    rows.loc[rows[rows["arm"] == baselines.DEFAULT].index[0], "saturated"] = True
    grown = made._replace(rows=rows)
    sentence = f"'{baselines.PLAIN}' at load {LOADS[-1]:g} is saturated: the backlog grew by 321 requests"
    assert [text.startswith(sentence) for text in summary.remarks(rows, "throughput")] == [True]
    page = read(grown)
    assert sentence in " ".join(page.text.split())
    table = next(rows for caption, rows in page.tables.items() if caption.startswith("Means over"))
    assert table[baselines.PLAIN][1:7] == ["90.0 %", *["not steady"] * 5]
    assert "not steady" not in table[baselines.DEFAULT]
    by_load = next(rows for caption, rows in page.tables.items() if caption == "Mean requests/s within their SLOs")
    assert by_load[baselines.PLAIN][-1] == "not steady" and "not steady" not in by_load[baselines.PLAIN][:-1]


def test_a_speed_that_waiting_requests_pay_for_is_named(read: Callable[[Outcome], Page]) -> None:
    made = outcome(options=Options(Path("x"), objective="tpot"))
    rows = made.rows.copy()
    rows.loc[(rows["arm"] == baselines.DEFAULT) & (rows["load"] == LOADS[-1]), "ttft_attainment"] = 0.12
    (sentence,) = summary.remarks(rows, "tpot")
    assert sentence.startswith(
        f"'{baselines.DEFAULT}' at load {LOADS[-1]:g} meets the TTFT of 12% of the requests: its speed"
    )
    assert sentence in " ".join(read(made._replace(rows=rows)).text.split())
    # Throughput gains nothing by letting requests wait.
    assert summary.remarks(rows, "throughput") == []


def test_where_nothing_is_served_no_way_of_serving_is_advised() -> None:
    found = rows()
    found["goodput_per_s"] = 0.0
    told = advise(compare(found, baselines.PLAIN, "goodput"), baselines.PLAIN, "goodput", {})
    assert told == "No serving mode has any goodput at these loads: check the lengths, service levels and KV pool."
