"""The ``dspark`` command: its output, its files, and their agreement with the library."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dspark_simulator.scenario import Run, Scenario, load
from dspark_simulator.simulation import Arm, simulate
from dspark_tuning.cli import common
from dspark_tuning.cli import tune as tune_command
from dspark_tuning.reporting import tuning
from dspark_tuning.reporting.tuning import files
from dspark_tuning.search import baselines, named_arms
from dspark_tuning.search.evaluation import Cell, measure
from dspark_tuning.search.launch_command import SPS_TABLE, STS
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.search import STUDY
from dspark_tuning.search.tune import Outcome
from sglang_dspark.errors import InputError
from sglang_dspark.policy import SpsAdditiveTable, Threshold
from sglang_dspark.policy.artifact import Artifact
from sglang_dspark.policy.belief import sps_json
from tests.policy.test_artifact import ARTIFACT
from tests.published_data import published
from tests.simulator.test_schema import fields
from tests.tuning.command import Ran, dspark
from tests.tuning.interrupted_lock import interrupt_lock
from tests.tuning.report_page import Page, check_nothing_is_loaded, check_readable

PINS = ["--pin", "max_running_requests=96", "--pin", "family=threshold", "--pin", "fill=false"]
TINY = ["--load", 2, "--load", 24, "--trials", 32, "--replications", 6, *PINS]
COMMANDS = (
    "scenario list",
    "scenario show",
    "simulate",
    "tune",
    "plan",
    "policy diff",
    "bench simulator",
    "bench policy",
    "serve-check",
)


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    script = """
import contextlib, io, sys
from dspark_tuning.cli import main
imported = [*sys.modules]
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
    main(["tune", "--trials", "none"])
print(*imported)
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script, *COMMANDS], check=True, capture_output=True, text=True)
    imported, helped = (set(line.split()) for line in ran.stdout.splitlines())
    assert "dspark_tuning.cli.tune" in imported
    heavy = {"numba", "numpy", "pandas", "optuna", "pyarrow", "plotly", "simpy"}
    assert not helped & heavy
    # Typer itself reads options with pydantic.
    assert not imported & (heavy | {"pydantic"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_has_json(command: str) -> None:
    ran = dspark(*command.split(), "--help")
    assert ran.code == 0
    assert "--json" in ran.out


def test_the_objectives_are_those_of_the_tuner() -> None:
    hint = get_type_hints(tune_command.tune)["objective"]
    chosen, none = get_args(hint)
    assert get_args(chosen) == tuple(METRICS) and none is type(None)


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    common.print_json({"a": math.nan, "b": [np.float64(math.inf), np.int64(3)], "c": Run(requests=200).requests})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 3], "c": 200}


class TestScenario:
    def test_list_names_every_packaged_one(self) -> None:
        rows = dspark("scenario", "list", "--json").json()
        assert "b300-v4flash" in [row["name"] for row in rows]
        text = dspark("scenario", "list").out
        assert all(row["name"] in text and row["model"] in text for row in rows)

    def test_a_packaged_one_can_be_copied_and_checked(self, tmp_path: Path) -> None:
        for row in dspark("scenario", "list", "--json").json():
            shown = dspark("scenario", "show", row["name"])
            file = tmp_path / "mine.yaml"
            file.write_text(shown.out)
            assert dspark("scenario", "check", file, "--json").json()["name"] == row["name"]
            assert load(str(file)) == load(row["name"])

    def test_show_as_json_has_the_defaults(self) -> None:
        shown = dspark("scenario", "show", "b300-v4flash", "--json").json()
        assert Scenario.model_validate(shown) == load("b300-v4flash")
        assert shown["server"]["schedule_conservativeness"] == 1.0

    def test_the_schema_knows_every_field_that_is_written(self) -> None:
        schema = dspark("scenario", "schema").json()
        written: dict[str, Any] = yaml.safe_load(dspark("scenario", "show", "b300-v4flash").out)
        assert written.keys() <= schema["properties"].keys()
        assert schema["additionalProperties"] is False
        assert dspark("scenario", "schema", "--json").json() == schema


class TestSimulate:
    def test_json_is_what_the_library_finds(self) -> None:
        found = dspark("simulate", "--load", 8, "--seed", 5, "--requests", 60, "--json").json()
        scenario = load("b300-v4flash").at_load(8)
        warmup = scenario.run.warmup_requests
        run = Run(requests=60 + warmup, warmup_requests=warmup, max_s=scenario.run.max_s)
        result = simulate(scenario.model_copy(update={"run": run}), baselines.default(scenario), seed=5)
        assert found["result"]["requests"] == 60
        assert found["result"]["throughput_tok_s"] == result.throughput_tok_s
        assert found["result"]["tpot"] == result.tpot._asdict()
        assert found["result"]["ttft"]["p99_s"] == result.ttft.p99_s
        assert [c["good"] for c in found["result"]["classes"]] == [c.good for c in result.classes]
        assert found["truth"] == scenario.live.centre()._asdict()

    def test_clients_of_a_closed_loop_are_all_there_before_anything_is_measured(self) -> None:
        result = dspark("simulate", "--load", 300, "--requests", 100, "--arm", "plain", "--json").json()["result"]
        assert result["running"] > 290

    @pytest.mark.parametrize("requests", [300, 1500])
    def test_a_saturated_run_says_so_and_prints_no_steady_figures(self, tmp_path: Path, requests: int) -> None:
        content = load("h200-qwen3-8b").model_dump(mode="json")
        content |= {"loads": [1.0], "run": {"requests": 200, "warmup_requests": 20}}
        content["workload"]["arrivals"] = {"kind": "poisson", "rate_per_s": 60.0}
        path = tmp_path / "over.yaml"
        path.write_text(yaml.safe_dump(content))
        arguments = ("simulate", path, "--requests", requests)
        result = dspark(*arguments, "--json").json()["result"]
        assert result["saturated"] is True and 0 <= result["attainment"] < 0.5
        assert all(klass["attainment"] == klass["good"] / klass["requests"] for klass in result["classes"])
        text = " ".join(dspark(*arguments).out.split())
        assert f"saturated: the backlog grew by {result['backlog_growth']:,} requests; goodput depends on" in text
        # Goodput and three latencies, of all and of each class.
        assert text.count("not steady") == 4 * (1 + len(result["classes"]))

        below = dspark(*arguments, "--load", 0.1)
        assert "saturated" not in below.out and "100.0 %" in below.out
        assert dspark(*arguments, "--load", 0.1, "--json").json()["result"]["saturated"] is False

    def test_the_table_has_the_classes_and_the_figures(self) -> None:
        arguments = ("simulate", "--load", 8, "--requests", 60)
        result = dspark(*arguments, "--json").json()["result"]
        text = dspark(*arguments).out
        assert f"{result['accepted_length']:.2f}" in text
        assert f"{1e3 * result['mean_step_s']:.2f}" in text
        assert all(klass["name"] in text for klass in result["classes"])

    @pytest.mark.parametrize(
        ("arm", "verify_length"), [("plain", 0), ("default", 5), ("fixed-1", 1), ("fixed-3", 3), ("static-0", 5)]
    )
    def test_arms(self, arm: str, verify_length: int) -> None:
        result = dspark("simulate", "--load", 4, "--requests", 30, "--arm", arm, "--json").json()["result"]
        assert result["verify_length"] == verify_length
        assert (result["accepted_length"] == 1) == (arm == "plain")

    def test_scheduling_arms_verify_less_than_everything_under_load(self) -> None:
        arguments = ("simulate", "--load", 48, "--requests", 60, "--json", "--arm")
        found = {arm: dspark(*arguments, arm).json() for arm in ("greedy", "argmax", "aligned", "oracle", "static-.6")}
        assert len({run["arm"] for run in found.values()}) == 5
        assert all(0 < run["result"]["verify_length"] < 7 for run in found.values())

    def test_a_policy_brings_its_server(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.json"
        path.write_text(WEIGHTED.model_dump_json())
        scenario = load("b300-v4flash")
        arm = named_arms.tuned(path, scenario)
        changed = {
            "gamma": 5,
            "max_running_requests": 128,
            "capture_requests": 96,
            "chunked_prefill_size": 4096,
            "verify_mode": "compact",
            "confidence_lag_steps": 1,
        }
        server = scenario.server.model_copy(update=changed)
        assert arm == Arm(str(path), server, WEIGHTED.policy, WEIGHTED.cost_belief)
        at_load = scenario.at_load(64).model_copy(update={"run": Run(requests=250, warmup_requests=150)})
        found = dspark("simulate", "--requests", 100, "--load", 64, "--policy", path, "--json").json()["result"]
        assert found["throughput_tok_s"] == simulate(at_load, arm).throughput_tok_s
        assert found["verify_length"] <= 5
        assert found["running"] > scenario.server.max_running_requests

    def test_a_policy_that_says_serve_plain_serves_plain(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.json"
        path.write_text(WEIGHTED.model_copy(update={"serve": "plain"}).model_dump_json())
        assert named_arms.tuned(path, load("b300-v4flash")) == baselines.plain(load("b300-v4flash"))

    def test_steps_are_written_and_do_not_overlap(self, tmp_path: Path) -> None:
        path = tmp_path / "steps.parquet"
        result = dspark("simulate", "--load", 4, "--requests", 30, "--steps", path, "--json").json()["result"]
        steps = pd.read_parquet(path)
        assert len(steps) >= result["steps"]
        assert set(steps["kind"]) == {"prefill", "decode"}
        ends = (steps["start_s"] + steps["step_s"]).to_numpy()
        assert (steps["start_s"].to_numpy()[1:] >= ends[:-1] - 1e-9).all()
        assert steps.loc[steps["kind"] == "decode", "running"].max() == 4

    def test_a_trace_is_replayed(self) -> None:
        path = published("azure_llm_2023_conv.csv")
        found = dspark("simulate", "--trace", path, "--requests", 300, "--json").json()["result"]
        rows = pd.read_csv(path, parse_dates=["TIMESTAMP"])
        warmup = load("b300-v4flash").with_trace(path).warmed().run.warmup_requests
        window = rows["TIMESTAMP"].iloc[warmup + 300] - rows["TIMESTAMP"].iloc[warmup]
        assert found["window_s"] == pytest.approx(window.total_seconds(), abs=1e-5)


WEIGHTED: Artifact = ARTIFACT.model_copy(
    update={
        "policy": Threshold(running=(1, 64), theta=(0.1, 0.6), weight=(1.0, 1.5)),
        "gamma": 5,
        "sts_temperatures": (1.0,) * 5,
        "classes": ("chat", "code"),
        "server_flags": {
            "--speculative-algorithm": "DSPARK",
            "--max-running-requests": "128",
            "--cuda-graph-max-bs-decode": "96",
            "--chunked-prefill-size": "4096",
        },
        "environment": {"SGLANG_RAGGED_VERIFY_MODE": "compact", "SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS": "1"},
    }
)


class Tuned(NamedTuple):
    folder: Path
    json: Any
    outcome: Outcome


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned") / "new" / "out"
    written: list[Outcome] = []
    write = files.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", lambda outcome, folder: written.append(outcome) or write(outcome, folder))
        found = dspark("tune", *TINY, "--workers", 1, "--out", folder, "--json").json()
    return Tuned(folder, found, written[0])


@pytest.fixture
def outcome(tuned: Tuned) -> Outcome:
    return tuned.outcome


class Continued(NamedTuple):
    """A run that was interrupted and resumed with the same command."""

    folder: Path
    interrupted: Ran
    kept: int
    files: set[str]
    again: Ran


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Continued:
    folder = tmp_path_factory.mktemp("interrupted")
    command = ["tune", *map(str, TINY), "--workers", "2", "--out", str(folder)]
    script = "from dspark_tuning.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while _stored(folder) < 16:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    # As in a terminal, every process of the command receives the interrupt.
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=600)
    files = {path.name for path in folder.iterdir()}
    return Continued(folder, Ran(running.returncode, out, err), _stored(folder), files, dspark(*command))


def _stored(folder: Path) -> int:
    """Trials in the journal of a run."""
    if not (folder / "journal.log").exists():
        return 0
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return len(optuna.load_study(study_name=STUDY, storage=storage).trials) if storage.get_all_studies() else 0


class TestTune:
    def test_every_file_is_there_and_nothing_else(self, tuned: Tuned) -> None:
        written = {"policy.json", "sps_table.json", "sts.json", "report.html", "scenario.yaml"}
        written |= {"launch.sh", "launch_stock.sh"}
        written |= {"trials.parquet", "trials.csv", "evidence.parquet"}
        assert {Path(file).name for file in tuned.json["files"]} == written
        assert {path.name for path in tuned.folder.iterdir()} == written | {"journal.log"}

    def test_the_policy_passes_the_check_and_can_be_shown(self, tuned: Tuned) -> None:
        path = tuned.folder / "policy.json"
        assert dspark("policy", "check", path, "--json").json()["valid"]
        assert str(path) in dspark("policy", "check", path).out
        shown = dspark("policy", "show", path)
        assert baselines.ALIGNED in shown.out
        assert "searched: max_running_requests" in shown.out
        assert dspark("policy", "show", path, "--json").json() == json.loads(path.read_text())

    def test_the_figures_are_those_of_the_report_rows(self, tuned: Tuned) -> None:
        rows = pd.read_parquet(tuned.folder / "evidence.parquet")
        assert len(rows) == len(tuned.json["arms"]) * 2 * 6
        speed = rows.pivot(index=["load", "seed"], columns="arm", values="throughput_tok_s")
        for arm in tuned.json["arms"]:
            ratios = speed[tuned.json["winner"]] / speed[arm["arm"]]
            assert arm["gain"]["ratio"] == pytest.approx(math.exp(np.log(ratios).mean()))
            assert arm["throughput_tok_s"] == pytest.approx(speed[arm["arm"]].mean())
        split = tuned.json["split"]
        assert split["stock"]["ratio"] * split["policy"]["ratio"] == pytest.approx(split["both"]["ratio"])

    def test_the_report_tells_the_same_figures(self, tuned: Tuned) -> None:
        text = (tuned.folder / "report.html").read_text()
        page = Page(text)
        check_nothing_is_loaded(text, page)
        check_readable(page)
        table = page.table("Means over the")
        for arm in tuned.json["arms"]:
            chosen = arm["arm"] == tuned.json["winner"]
            cells = table[f"{arm['arm']} (chosen)" if chosen else arm["arm"]]
            told = [float(cell.replace(",", "").removesuffix(" %")) for cell in cells[:9]]
            units = (1, 100, 1, 1e3, 1e3, 1e3, 1e3, 1, 1)
            assert told == pytest.approx([arm[k] * u for k, u in zip(list(arm)[1:10], units, strict=True)], rel=0.006)
            if not chosen:
                ratios = [float(part) for part in re.findall(r"[\d.]+", cells[9])]
                gain = arm["gain"]
                assert ratios == pytest.approx([gain["ratio"], gain["low"], gain["high"]], rel=0.006)
        assert tuned.json["advice"] in page.text
        # A run shown in detail belongs to the report set.
        rows = pd.read_parquet(tuned.folder / "evidence.parquet").set_index(["arm", "load", "seed"])
        for place, clients in enumerate(sorted({clients for _, clients, _ in rows.index})):
            shown = [table for text, table in page.all_tables if text == "Percentiles in ms"][place]
            row = rows.loc[(tuned.json["winner"], clients, min(seed for *_, seed in rows.index))]
            for kind in ("ttft", "tpot", "itl"):
                cells = shown[f"{kind.upper()}, {tuned.json['winner']}"]
                told = [float(cells[at].replace(",", "")) for at in (1, 2, 4)]
                assert told == pytest.approx([1e3 * row[f"{kind}_p{p}_s"] for p in (50, 90, 99)], rel=0.006)

    def test_every_baseline_is_a_row_of_the_table(self, tuned: Tuned, continued: Continued) -> None:
        scenario = load("b300-v4flash")
        for arm in (*baselines.baselines(scenario, scenario.server, 0.5), baselines.oracle(scenario.server)):
            assert f" {arm.name} " in continued.again.out
        assert tuned.json["advice"] in " ".join(continued.again.out.split())

    def test_trials_are_kept_as_two_tables(self, tuned: Tuned) -> None:
        parquet, csv = pd.read_parquet(tuned.folder / "trials.parquet"), pd.read_csv(tuned.folder / "trials.csv")
        assert len(parquet) == len(csv) == tuned.json["trials"] == 32
        assert list(parquet["number"]) == list(range(32))
        assert list(parquet.columns) == list(csv.columns)

    def test_pins_hold(self, tuned: Tuned) -> None:
        trials = pd.read_parquet(tuned.folder / "trials.parquet")
        assert set(trials["max_running_requests"]) == {96}
        assert set(trials["family"]) == {"threshold"}
        assert not trials["fill"].any()

    def test_an_interrupt_keeps_the_trials_and_says_so(self, continued: Continued) -> None:
        assert continued.interrupted.code == 130
        assert continued.interrupted.out == ""
        kept = f"{continued.kept} trials are kept in {continued.folder}"
        assert continued.interrupted.err == f"dspark: interrupted: {kept}; the same command continues\n"
        assert continued.files == {"journal.log"}

    def test_an_interrupt_in_the_lock_of_the_journal_is_told_as_any_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "out"
        # Two writes make the study; then each trial is one.
        interrupt_lock(monkeypatch, "rename", write=4)
        ran = dspark("tune", "--load", 2, "--trials", 16, "--replications", 6, *PINS, "--workers", 1, "--out", folder)
        assert (ran.code, ran.out) == (130, "")
        assert ran.err == f"dspark: interrupted: 2 trials are kept in {folder}; the same command continues\n"
        assert {path.name for path in folder.iterdir()} == {"journal.log"}

    def test_the_same_command_continues_to_the_same_policy(self, tuned: Tuned, continued: Continued) -> None:
        assert continued.again.code == 0
        for name in ("policy.json", "trials.csv"):
            assert (continued.folder / name).read_bytes() == (tuned.folder / name).read_bytes()


class TestOutputs:
    def test_nothing_is_written_if_anything_fails(
        self, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tuning, "render", lambda outcome: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.write(outcome, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_an_unmodified_sglang_has_its_table_and_its_temperatures(self, outcome: Outcome, tmp_path: Path) -> None:
        server = outcome.stock.server.model_copy(update={"gamma": 3})
        outcome = outcome._replace(stock=outcome.stock._replace(server=server))
        files.write(outcome, tmp_path)
        table = (tmp_path / SPS_TABLE).read_text()
        assert table == sps_json(outcome.stock.belief)
        assert SpsAdditiveTable.model_validate_json(table).bs_probes == outcome.stock.belief.bs_probes
        temperatures = json.loads((tmp_path / STS).read_text())["temperatures"]
        assert temperatures == list(outcome.scenario.drafter().sts[:3])

    def test_the_written_policy_simulates_as_it_did_in_the_report(self, outcome: Outcome, tmp_path: Path) -> None:
        files.write(outcome, tmp_path)
        arm = named_arms.tuned(tmp_path / "policy.json", outcome.scenario)
        row = outcome.rows[outcome.rows["arm"] == outcome.winner.name].iloc[-1]
        again = measure(outcome.scenario, Cell(arm, row["load"], int(row["seed"])))
        assert again["throughput_tok_s"] == row["throughput_tok_s"]


def test_policies_are_compared_field_by_field(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(ARTIFACT.model_dump_json())
    new.write_text(ARTIFACT.model_copy(update={"advice": "Wait [a bit]."}).model_dump_json())
    assert dspark("policy", "diff", old, old, "--json").json() == []
    assert dspark("policy", "diff", old, new, "--json").json() == [
        {"field": "advice", "old": json.dumps(ARTIFACT.advice), "new": '"Wait [a bit]."'}
    ]
    assert "Wait [a bit]." in dspark("policy", "diff", old, new).out


def test_the_simulator_bench_has_every_figure() -> None:
    found = dspark("bench", "simulator", "--scale", "0.01", "--json").json()
    assert found["cases"].keys() == {"low", "busy", "full", "large"}
    for case in found["cases"].values():
        assert case.keys() == {"requests_per_s", "sim_s_per_s", "mean_batch", "rss_mb"}
        assert all(value > 0 for value in case.values())
    assert 20 < found["cases"]["busy"]["mean_batch"] < 48
    assert found["cases"]["full"]["mean_batch"] == pytest.approx(256, rel=0.05)
    assert found["decision_us"]["256"].keys() == {"none", "fixed", "static", "greedy", "argmax", "threshold"}
    assert 0 < found["help_s"] < found["first_result_s"]


def test_a_plan_warns_of_its_traffic_on_each_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_simulation(*arguments: Any) -> None:
        raise InputError("nothing is simulated here")

    monkeypatch.setattr("dspark_tuning.planning.stages", no_simulation)
    content = yaml.safe_load(dspark("plan", "--show").out)
    content["choices"] = content["choices"][:1]
    content["workload"]["classes"][0]["slo"]["tpot_s"] = 30
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    warning, error = dspark("plan", file, "--workers", 1).err.splitlines()
    assert warning.startswith(f"dspark: warning: {content['name']}: ")
    assert "workload.classes.0.slo.tpot_s: 30: every request meets it" in warning
    assert error == "dspark: error: nothing is simulated here"


def test_the_schema_of_a_plan_describes_every_field() -> None:
    schema = dspark("plan", "--schema").json()
    assert [name for name, field in fields(schema) if not field.get("description")] == []
    content = yaml.safe_load(dspark("plan", "--show").out)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(content)] == []
    assert not Draft202012Validator(schema).is_valid(content | {"attainmnt": 0.9})


def test_a_run_says_what_its_figures_rest_on() -> None:
    line = (
        "Rests on step times interpolated between given measurements of up to 1,024 tokens; acceptance of DSpark, "
        "block 7 of Qwen/Qwen3-4B (arXiv 2607.05147, Table 1 and Figures 2, 5 and 6), 0.45 logits worse, assumed for "
        "deepseek-ai/DeepSeek-V4-Flash, on arena-hard-v2, livecodebench."
    )
    short = ("simulate", "b300-v4flash", "--load", "1", "--requests", "20")
    assert line in dspark(*short).out.splitlines()
    assert dspark(*short, "--json").json()["rests_on"] == line
    computed = dspark("simulate", "mi350x-v4flash", "--load", "1", "--requests", "20").out
    assert "step times computed from the model's shape and the published peaks of 4 MI350X, not measured" in computed


def test_values_that_cannot_be_meant_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: b300-v4flash\nname: mine\nrun: {requests: 40, warmup_requests: 30}\n")
    line = f"dspark: warning: {file}: run.warmup_requests: 30: only 10 requests after it are measured"
    for command in (["scenario", "check"], ["simulate", "--load", "1"]):
        ran = dspark(*command, file)
        assert ran.code == 0
        assert ran.err.startswith(line) and ran.err.count("\n") == 1
    checked = dspark("scenario", "check", file, "--json").json()
    assert [one["field"] for one in checked["warnings"]] == ["run.warmup_requests"]
    assert checked["warnings"][0]["value"] == 30 and "measured" in checked["warnings"][0]["message"]
    assert dspark("scenario", "check", "b300-v4flash", "--json").json()["warnings"] == []
