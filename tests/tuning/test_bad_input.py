"""Invalid input: one line that names file, field, value and remedy; exit code 2; nothing written."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspark_simulator.scenario import DEFAULT, PACKAGED
from sglang_dspark.errors import InputError
from tests.policy.test_artifact import CONTENT
from tests.tuning.command import Ran, dspark

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46,100,10\n"
POISSON = {"kind": "poisson", "rate_per_s": 2.0}
FLOOR = {"sample_batch_tokens": [8, 64], "sample_steps_per_sec": [90.0, 50.0], "max_batch_tokens": 64}
ADDITIVE = {
    "bias_seconds": 0.004,
    "bs_probes": [1, 64],
    "alpha_seconds": [0.001, 0.002],
    "m_probes": [8, 512],
    "theta_seconds": [0.005, 0.02],
}
CURVE = {
    "captured": {"tokens": [1, 64], "seconds": [0.005, 0.01]},
    "draft": {"requests": [1, 64], "seconds": [0.001, 0.002]},
}


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``content`` with the field at a dotted path set to ``value``."""
    content = copy.deepcopy(content)
    part: Any = content
    *parents, last = path.split(".")
    for key in parents:
        part = part[int(key) if isinstance(part, list) else key]
    part[int(last) if isinstance(part, list) else last] = value
    return content


def refused(ran: Ran, *said: str) -> None:
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.endswith("\n")
    errors = [line for line in ran.err.splitlines() if not line.startswith("dspark: warning: ")]
    assert len(errors) == 1 and errors[0].startswith("dspark: error: ")
    for part in said:
        assert part in errors[0]
    assert not Path("out").exists()


def table(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    return {"kind": "table", "table": changed(content, path, value)}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("gpu", 4, ["gpu: unknown field", "4", "did you mean gpus?"]),
        (
            "server.verify_modes",
            "static",
            ["server.verify_modes: unknown field", "static", "did you mean verify_mode?"],
        ),
        ("server.verify_mode", "always", ["server.verify_mode: 'always'", "'compact'"]),
        ("server.max_running_requests", "many", ["server.max_running_requests: 'many'", "integer"]),
        ("replicas", 0, ["replicas: 0", "greater than or equal to 1"]),
        ("server.gamma", 6, ["server.gamma 6", "beyond the drafter's block", "at most 5"]),
        ("server.gamma", 99, ["server.gamma: 99", "less than or equal to 16"]),
        ("workload.arrivals", POISSON | {"rate_per_s": -2}, ["workload.arrivals.rate_per_s: -2", "greater than 0"]),
        ("workload.arrivals", POISSON | {"rate_per_s": math.nan}, ["workload.arrivals.rate_per_s: nan", "finite"]),
        ("workload.arrivals", {"kind": "pareto"}, ["workload.arrivals", "pareto", "'poisson'"]),
        ("workload.arrivals", {"kind": "trace", "path": "gone.csv"}, ["gone.csv", "cannot be read"]),
        ("workload.classes.0.slo.tpot_s", math.nan, ["workload.classes.0.slo.tpot_s: nan", "finite"]),
        ("workload.classes.0.prompt.mean", math.inf, ["mean: inf", "finite"]),
        ("workload.classes.1.domain", "poetry", ["poetry", "livecodebench"]),
        ("live.overhead_s", [math.nan, 0.1], ["live.overhead_s.0: nan", "finite"]),
        ("live.slope", [2.0, 1.0], ["live", "slope goes from 2.0 down to 1.0", "lower end first"]),
        ("memory.kv_tokens", math.nan, ["memory.kv_tokens: nan"]),
        ("loads", [16, -1], ["loads.1: -1", "greater than 0"]),
        ("loads", [math.nan], ["loads.0: nan", "finite"]),
        ("loads", [1.5], ["loads", "give whole numbers"]),
        ("run", {"requests": 10, "warmup_requests": 10}, ["run", "warmup_requests 10", "raise requests"]),
        ("cost.curve", "b200.csv", ["cost.curve: 'b200.csv'", "choose one of b300_v4flash_curve.csv"]),
        ("cost", table(FLOOR, "sample_batch_tokens", [64, 8]), ["sample_batch_tokens: [64, 8]", "sort the probes"]),
        ("cost", table(FLOOR, "sample_steps_per_sec.0", math.nan), ["sample_steps_per_sec.0: nan", "finite"]),
        ("cost", table(ADDITIVE, "m_probes", [512, 512]), ["m_probes: [512, 512]", "512 follows 512"]),
        ("cost", table(ADDITIVE, "theta_seconds.1", math.nan), ["theta_seconds.1: nan", "finite"]),
        (
            "cost",
            {"kind": "curve", "curve": changed(CURVE, "captured.tokens", [64, 1])},
            ["captured.tokens: [64, 1]", "1 follows 64", "sort the measurements"],
        ),
        (
            "cost",
            {"kind": "curve", "curve": changed(CURVE, "draft.seconds.0", math.nan)},
            ["draft.seconds.0: nan", "finite"],
        ),
    ],
)
def test_a_wrong_scenario(path: str, value: Any, said: list[str]) -> None:
    packaged = yaml.safe_load((PACKAGED / f"{DEFAULT}.yaml").read_text())
    Path("mine.yaml").write_text(yaml.safe_dump(changed(packaged, path, value)))
    where = [] if "gone.csv" in said else ["mine.yaml: "]
    refused(dspark("scenario", "check", "mine.yaml"), *where, *said)
    refused(dspark("simulate", "mine.yaml", "--json"), *where, *said)
    refused(dspark("tune", "mine.yaml"), *where, *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["holds no fields", "dspark scenario show"]),
        ("- 1\n", ["holds no fields"]),
        ("name: [\n", ["not YAML", "line 2"]),
        ("base: b300-v4flash\nmodel: 1\n", ["model: 1 is not valid", "string"]),
        ("name: a\nbase: b300-v4flash\nname: b\n", ["name: given in line 1 and again in line 3; keep one"]),
        ("x: !!python/object/apply:os.abort []\n", ["not YAML", "os.abort"]),
    ],
)
def test_a_file_that_is_no_scenario(text: str, said: list[str]) -> None:
    Path("mine.yaml").write_text(text)
    refused(dspark("scenario", "check", "mine.yaml"), "mine.yaml: ", *said)
    refused(dspark("tune", "mine.yaml"), "mine.yaml: ", *said)


def test_every_mistake_of_a_scenario_is_named() -> None:
    text = "base: b300-v4flash\nserver: {gama: 3, verify_mode: statc}\nreplica: 2\nloads: [0]\n"
    Path("mine.yaml").write_text(text)
    for command in (["scenario", "check"], ["simulate"]):
        assert dspark(*command, "mine.yaml").err.splitlines() == [
            f"dspark: error: mine.yaml: {mistake}"
            for mistake in (
                "server.verify_mode: 'statc' is not valid; input should be 'static', 'cap-accept' or 'compact'; "
                "did you mean static?",
                "server.gama: unknown field (value 3); did you mean gamma?",
                "loads.0: 0 is not valid; input should be greater than 0",
                "replica: unknown field (value 2); did you mean replicas?",
            )
        ]


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        (["plan"], "name: a\nattainmnt: 0.9\n", ["attainmnt: unknown field", "did you mean attainment?"]),
        (["plan"], "name: a\nname: b\n", ["name: given in line 1 and again in line 2"]),
        (
            ["train"],
            "target: demo\nlosses: {crossentropy: 1}\n",
            ["losses.crossentropy", "did you mean cross_entropy?"],
        ),
        (["train"], "draft: {family: dspak}\n", ["draft: family: 'dspak'", "did you mean dspark?"]),
        (["simulate", "--acceptance"], "target: a\ndraftr: b\n", ["draftr: unknown field", "did you mean drafter?"]),
        (["simulate", "--profile"], '{"schema_version": 1, "modl": "a"}', ["modl: unknown", "did you mean model?"]),
        (["simulate", "--profile"], '{"schema_version": 1, "schema_version": 1}', ["schema_version: given twice"]),
        (["policy", "check"], '{"schema_version": 2, "gama": 5}', ["gama: unknown field", "did you mean gamma?"]),
        (["policy", "check"], '{"gamma": 5, "gamma": 6}', ["gamma: given twice in one object"]),
    ],
)
def test_misspelled_and_repeated_fields_of_every_file(command: list[str], text: str, said: list[str]) -> None:
    Path("mine").write_text(text)
    ran = dspark(*command, "mine")
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert all(line.startswith("dspark: error: mine: ") for line in lines)
    assert any(all(part in line for part in said) for line in lines), ran.err


def test_a_scenario_that_is_not_there() -> None:
    for command in (["scenario", "show"], ["scenario", "check"], ["simulate"], ["tune"]):
        refused(dspark(*command, "b300"), "b300: no such scenario or file", DEFAULT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["is empty", "a row for each request"]),
        (HEADER, ["has no requests", "add rows"]),
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,100\n", ["column GeneratedTokens is missing"]),
        (HEADER + ROW + "yesterday,100,10\n", ["row 2: TIMESTAMP: 'yesterday'", "write 2023-11-16"]),
        (HEADER + ROW + "2023-11-16 18:15:47,many,10\n", ["row 2: ContextTokens: 'many'", "whole number"]),
        (HEADER + ROW + "2023-11-16 18:15:47,100,-1\n", ["row 2: GeneratedTokens: '-1'", "whole number"]),
        (HEADER + ROW + "2023-11-16 18:15:47,100\n", ["line 3: 2 fields under 3 columns", "complete the row"]),
        (HEADER + ROW, ["arrival: the same in every row", "two times or more"]),
    ],
)
def test_a_wrong_trace(text: str, said: list[str]) -> None:
    Path("mine.csv").write_text(text)
    refused(dspark("simulate", "--trace", "mine.csv", "--steps", "out/steps.parquet"), "mine.csv: ", *said)
    refused(dspark("tune", "--trace", "mine.csv"), "mine.csv: ", *said)


def test_a_trace_that_is_not_there() -> None:
    refused(dspark("tune", "--trace", "gone.csv"), "gone.csv: cannot be read", "give the path of a trace file")
    refused(dspark("tune", "--trace", "."), "cannot be read", "give the path of a trace file")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema_version", 3, ["schema_version: '3' is not 1 or 2", "tune again"]),
        ("schema_version", None, ["schema_version: 'None' is not 1 or 2"]),
        ("thetas", [0.1], ["thetas: unknown field", "check its spelling"]),
        ("policy.family", "magic", ["policy", "magic", "'threshold'"]),
        ("policy.theta", [math.nan, 0.1], ["theta.0: nan", "finite"]),
        ("policy.running", [32, 1], ["running: [32, 1]", "sort the knots"]),
        ("gamma", 17, ["gamma: 17", "less than or equal to 16"]),
        ("sts_temperatures", [1.0], ["sts_temperatures has 1 entries for gamma 7", "one a position"]),
        ("sts_temperatures.3", math.nan, ["sts_temperatures.3: nan", "finite"]),
        ("cost_belief.m_probes", [8, 1], ["m_probes: [8, 1]", "1 follows 8", "sort the probes"]),
    ],
)
def test_a_wrong_policy(path: str, value: Any, said: list[str]) -> None:
    Path("mine.json").write_text(json.dumps(changed(CONTENT, path, value)))
    Path("good.json").write_text(json.dumps(CONTENT))
    refused(dspark("policy", "check", "mine.json"), "mine.json: ", *said)
    refused(dspark("policy", "show", "mine.json", "--json"), "mine.json: ", *said)
    refused(dspark("policy", "diff", "good.json", "mine.json"), "mine.json: ", *said)
    refused(dspark("simulate", "--policy", "mine.json", "--steps", "out/steps.parquet"), "mine.json: ", *said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("gamma", 7, ["gamma: 7", "b300-v4flash", "at most 5"]),
        ("server_flags.--max-running-requests", "all", ["max_running_requests: 'all'", "integer"]),
        ("server_flags.--max-running-requests", "4096", ["max_running_requests: 4096", "1024"]),
        ("environment", {"SGLANG_RAGGED_VERIFY_MODE": "often"}, ["verify_mode: 'often'", "'compact'"]),
        ("policy.weight", [1.0, 2.0], ["classes: chat are weighted", "chat, code", "tune for that scenario"]),
    ],
)
def test_a_policy_that_the_scenario_cannot_serve(path: str, value: Any, said: list[str]) -> None:
    content = changed(CONTENT | {"gamma": 5}, path, value)
    content["sts_temperatures"] = [1.0] * content["gamma"]
    Path("mine.json").write_text(json.dumps(content))
    assert dspark("policy", "check", "mine.json").code == 0
    refused(dspark("simulate", "--policy", "mine.json"), "mine.json: ", *said)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00"])
def test_a_file_that_is_no_policy(text: str) -> None:
    Path("mine.json").write_text(text)
    refused(dspark("policy", "check", "mine.json"), "mine.json: ", "dspark tune")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "--load", "nan"], ["--load: nan", "above 0"]),
        (["simulate", "--load", "-4"], ["--load: -4.0", "above 0"]),
        (["tune", "--load", "8", "--load", "1.5"], ["--load: 1.5", "whole number of clients"]),
        (["tune", "--load", "inf"], ["--load: inf", "above 0"]),
        (["tune", "--pin", "gamma"], ["--pin: 'gamma'", "NAME=VALUE"]),
        (["tune", "--pin", "gama=3"], ["--pin gama", "choose from", "gamma"]),
        (["tune", "--pin", "gamma=6"], ["--pin gamma: 6", "5"]),
        (["tune", "--pin", "gamma=2.5"], ["--pin gamma: 2.5"]),
        (["tune", "--pin", "overhead_s=NaN"], ["--pin overhead_s: nan"]),
        (["tune", "--pin", "verify_mode=never"], ["--pin verify_mode: 'never'", "compact"]),
        (["simulate", "--arm", "fixed-6"], ["--arm: 'fixed-6'", "fixed-1 to fixed-5"]),
        (["simulate", "--arm", "static-2"], ["--arm: 'static-2'", "give plain, default"]),
        (["simulate", "--arm", "plain", "--policy", "x.json"], ["--arm: 'plain'", "x.json", "give one"]),
        (["tune", "--dask", "nowhere"], ["--dask: nowhere", "dask scheduler"]),
        (["tune", "--storage", "tape://x", "--load", "1"], ["--storage: tape://x", "cannot be opened"]),
        (["policy", "check", "gone.json"], ["gone.json: cannot be read", "give the path of a policy.json"]),
    ],
)
def test_a_wrong_option(arguments: list[str], said: list[str]) -> None:
    refused(dspark(*arguments), *said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", "--objective", "fun"],
        ["tune", "--trials", "0"],
        ["tune", "--replications", "1"],
        ["tune", "--seed", "-1"],
        ["simulate", "--requests", "none"],
        ["simulate", "--nonsense"],
        ["nonsense"],
    ],
)
def test_a_command_line_that_typer_refuses(arguments: list[str]) -> None:
    ran = dspark(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert arguments[-2 if len(arguments) > 2 else -1] in ran.err
    assert not Path("out").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(out: str) -> None:
    Path("file").write_text("mine")
    refused(dspark("tune", "--out", out), f"--out: {out}: cannot be written", "choose another folder")
    refused(dspark("bench", "policy", "--out", out), f"--out: {out}")
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("memory", {"kv_tokens": 9, "kv_tokens_without_draft": 9}, ["kv_tokens: 9 holds no request", "more than 12"]),
        ("name", "two\nlines", ["max_s", "0.01", "raise it"]),
    ],
)
def test_what_only_a_simulation_finds_out_is_one_line_too(field: str, value: Any, said: list[str]) -> None:
    packaged = yaml.safe_load((PACKAGED / f"{DEFAULT}.yaml").read_text())
    packaged["run"] = {"requests": 300, "warmup_requests": 200, "max_s": 0.01}
    packaged["workload"]["arrivals"] = POISSON
    packaged["loads"] = [1]
    Path("mine.yaml").write_text(yaml.safe_dump(packaged | {field: value}))
    refused(dspark("simulate", "mine.yaml"), *said)
    refused(dspark("tune", "mine.yaml", "--workers", "1"), *said)


def test_the_installed_command_prints_no_traceback() -> None:
    script = Path(sys.executable).with_name("dspark")
    ran = subprocess.run([script, "simulate", "--trace", "gone.csv"], capture_output=True, text=True)
    refused(Ran(ran.returncode, ran.stdout, ran.stderr), "gone.csv: cannot be read")


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        ("simulate", "arm: 'best' is not known", "--arm: 'best' is not known"),
        ("tune", "pin gamma: 9 is not valid", "--pin gamma: 9 is not valid"),
        ("plan", "what_if: 'x' is not valid", "--what-if: 'x' is not valid"),
        ("tune", "arm: 'best' is not known", "arm: 'best' is not known"),
        ("simulate", "scenario: is not known", "scenario: is not known"),
        ("tune", "out/mine.yaml: no such file", "out/mine.yaml: no such file"),
    ],
)
def test_a_field_is_named_as_the_option_that_sets_it(
    command: str, message: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError(message)

    monkeypatch.setattr("dspark_tuning.planning.load", refuse)
    monkeypatch.setattr("dspark_simulator.scenario.load", refuse)
    assert dspark(command).err == f"dspark: error: {shown}\n"


def test_an_error_of_ours_is_not_passed_off_as_one_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: str) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("dspark_simulator.scenario.load", broken)
    with pytest.raises(ValueError, match="a bug"):
        from dspark_tuning.cli import main

        main(["simulate"])
