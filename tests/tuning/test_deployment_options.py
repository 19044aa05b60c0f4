"""Deployments described by options: the same in every command, and the same as their file."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dspark_simulator.scenario import Scenario
from dspark_tuning.cli.deployment_options import DeploymentOptions
from dspark_tuning.planning.question import Question, load
from sglang_dspark.errors import InputError
from tests.tuning.command import dspark

MODEL = ("--model", "Qwen3-8B", "--gpu", "H200", "--isl", 64, "--osl", 16, "--rate", 4, "--tpot", 0.04)
COMMANDS = ("simulate", "tune", "plan", "ui", "scenario new")


@pytest.fixture
def new_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    ran = dspark("scenario", "new", *MODEL, "--out", path)
    assert ran.code == 0 and ran.out.startswith(f"{path}: Qwen/Qwen3-8B on 1xH200, not measured.")
    return path


def test_a_file_and_its_options_give_the_same_run(new_file: Path) -> None:
    length = ("--requests", 40, "--json")
    assert dspark("simulate", new_file, *length).json() == dspark("simulate", *MODEL, *length).json()
    assert dspark("scenario", "check", new_file).code == 0


def test_stdout_is_the_file(new_file: Path) -> None:
    assert dspark("scenario", "new", *MODEL).out == new_file.read_text()
    content = dspark("scenario", "new", *MODEL, "--json").json()
    assert content == json.loads(Scenario.model_validate(content).model_dump_json())
    assert content["workload"]["classes"][0]["slo"] == {"ttft_s": 1.0, "tpot_s": 0.04}


def test_tune_and_the_page_take_both(new_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def tune(scenario: Scenario, *_: object) -> None:
        seen.append(scenario)
        raise InputError("enough")

    def serve(source: str, port: int) -> None:
        from dspark_simulator.scenario import load as read

        seen.append(read(source))

    monkeypatch.setattr("dspark_tuning.search.tune.tune", tune)
    monkeypatch.setattr("dspark_tuning.reporting.ui.app.serve", serve)
    for words in (MODEL, (new_file,)):
        dspark("tune", *words, "--workers", 1, "--out", tmp_path / "out")
        assert dspark("ui", *words).code == 0
    assert len(seen) == 4 and all(one == seen[0] for one in seen)


def test_a_scenario_is_a_plan(new_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Question] = []

    def plan(question: Question, *_: object, **__: object) -> None:
        asked.append(question)
        raise InputError("enough")

    monkeypatch.setattr("dspark_tuning.planning.plan", plan)
    for words in (MODEL, (new_file,), ("h200-qwen3-8b", "--rate", 4)):
        dspark("plan", *words, "--workers", 1)
    of_model, of_file, packaged = asked
    assert of_model.workload == of_file.workload and of_model.rate_per_s == packaged.rate_per_s == 4
    assert (of_model.choices[0].model, of_file.choices[0].scenario) == ("Qwen3-8B", str(new_file))
    assert packaged.choices[0].scenario == "h200-qwen3-8b" and not packaged.priced
    assert load("v4flash-chat").priced


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "Qwen3-8B"), "--gpu: missing"),
        (("--gpu", "H200"), "--gpu: H200 is given without a model"),
        (("--ttft", "0.5"), "--ttft: 0.5 is given without a model"),
        ((*MODEL, "--ttft", "-1"), "--ttft: -1.0 is not valid"),
        ((*MODEL, "--domain", "poems"), "--domain: 'poems' is not known"),
        (("--model", "Qwen3-8B", "--gpu", "H201", "--rate", 1), "did you mean H20"),
        (("--model", "Qwen3-80B", "--gpu", "H200", "--rate", 1), "--model: 'Qwen3-80B' is not known by name"),
        (("--config", "nowhere.json", "--gpu", "H200", "--rate", 1), "nowhere.json: cannot be read"),
        ((*MODEL, "--kv-cache-dtype", "int8"), "--kv-cache-dtype: 'int8' is not valid"),
        (("--model", "DeepSeek-V4-Pro", "--gpu", "H200", "--rate", 1), "give tp"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(command: str, words: tuple[Any, ...], message: str) -> None:
    ran = dspark(*command.split(), *words)
    assert ran.code == 2 and not ran.out
    # `scenario new` has nothing to fall back to.
    if command == "scenario new" and "without a model" in message:
        message = "without a model"
    assert message in ran.err


@pytest.mark.parametrize("command", ["simulate", "tune", "plan"])
def test_a_scenario_and_a_model_exclude_each_other(command: str) -> None:
    assert "give one of the two" in dspark(command, "h200-qwen3-8b", *MODEL).err
    assert "missing; give the requests per second" in dspark("plan", *MODEL[:4]).err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_and_stated_default(command: str) -> None:
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", dspark(*command.split(), "--help").out).split())
    for option in ("--model", "--config", "--gpu", "--tp", "--draft", "--isl", "--osl", "--rate", "--ttft", "--tpot"):
        assert f" {option} " in text
    assert "[default: 0.85]" in text and "[default: 1]" in text


def test_a_model_has_no_plan_file_to_show() -> None:
    ran = dspark("plan", *MODEL, "--show")
    assert ran.code == 2 and not ran.out and ran.err.startswith("dspark: error: --show: ")


def test_words_reproduce_the_options() -> None:
    options = DeploymentOptions(model="a b", gpu="H200", tp=2, draft=Path("d/e"), ttft_s=0.5)
    assert shlex.join(options.words()) == "--model 'a b' --gpu H200 --tp 2 --draft d/e --ttft 0.5"
