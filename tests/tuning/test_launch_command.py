"""The launch command of a replica: SGLang's own parser and a shell take it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspark_simulator.model_on_gpus import ModelOnGpus
from dspark_simulator.new_scenario import Traffic, new_scenario
from dspark_simulator.scenario import Scenario, load
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.launch_command import command, script
from dspark_tuning.search.space import Space
from tests.tuning.test_server_flags import SERVERS

ALIGN = "--speculative-dspark-align-verify-tokens-to-graph-tier"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load("h200-qwen3-8b")


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    """SGLang's parser with the plugin's flags."""
    pytest.importorskip("sglang")
    from sglang.srt.server_args import ServerArgs

    from sglang_dspark.serving import settings as plugin

    made = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(made)
    plugin.add_flags(None, made)
    return made


def words(text: str) -> tuple[dict[str, str], list[str]]:
    """Variables and arguments of a launch command."""
    split = shlex.split(text.replace("\\\n", ""))
    start = split.index("python")
    assert split[start : start + 3] == ["python", "-m", "sglang.launch_server"]
    return dict(word.split("=", 1) for word in split[:start]), split[start + 3 :]


def tuned(scenario: Scenario) -> Arm:
    space = Space(scenario, {})
    return space.arm("tuned", space.start())


def test_an_unmodified_server_has_a_table_and_no_policy(scenario: Scenario) -> None:
    ours = tuned(scenario)._replace(server=scenario.server.model_copy(update={"gamma": 3}))
    variables, stock = words(command(scenario, baselines.on_stock(ours), Path("out dir")))
    assert stock[-5:-1] == [
        "--speculative-dspark-sps-table-path",
        "out dir/sps_table.json",
        "--speculative-dspark-confidence-sts-path",
        "out dir/sts.json",
    ]
    assert stock[-1] == ALIGN and variables["SGLANG_RAGGED_VERIFY_MODE"] == "compact"
    assert stock[stock.index("--speculative-dspark-block-size") + 1] == "3"
    _, steered = words(command(scenario, ours))
    assert steered[-2:] == ["--speculative-dspark-policy", "policy.json"] and ALIGN not in steered


def test_servers_without_a_schedule_need_no_files() -> None:
    b300 = load("b300-v4flash")
    for arm in (baselines.plain(b300), baselines.default(b300)):
        variables, given = words(command(b300, arm))
        assert not any(".json" in word for word in given)
        assert given[given.index("--tp") + 1] == "4"
        # V4's draft is in its checkpoint, where SGLang finds it.
        assert "--speculative-draft-model-path" not in given
        assert bool(variables) == arm.server.speculative


def test_paths_are_the_users_own_or_asked_for(scenario: Scenario) -> None:
    _, known = words(command(scenario, baselines.default(scenario)))
    assert known[:2] == ["--model-path", "Qwen/Qwen3-8B"]
    assert known[known.index("--speculative-draft-model-path") + 1].startswith("deepseek-ai/")
    own = scenario.model_copy(update={"model_path": "/models/it's mine", "draft_path": "./draft"})
    _, given = words(command(own, baselines.default(own)))
    assert given[1] == "/models/it's mine" and "./draft" in given
    nameless = scenario.model_copy(update={"model": "8B on H200"})
    shared = scenario.model_copy(update={"mem_fraction_static": 0.6})
    assert "--mem-fraction-static 0.6" in command(shared, baselines.plain(shared))
    assert '--model-path "${MODEL:?path or Hugging Face id of 8B on H200}"' in command(nameless, baselines.plain(own))


def run(path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a launch script with a stand-in of Python that prints what it is given."""
    folder = path.parent / "bin"
    folder.mkdir(exist_ok=True)
    stand_in = folder / "python"
    stand_in.write_text('#!/bin/sh\necho "$SGLANG_RAGGED_VERIFY_MODE"\nfor word; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["sh", str(path), *arguments], capture_output=True, text=True, env=environment, check=False, cwd="/"
    )


def test_a_script_finds_its_files_and_takes_more_flags(scenario: Scenario, tmp_path: Path) -> None:
    folder = tmp_path / "a folder's"
    folder.mkdir()
    path = folder / "launch.sh"
    path.write_text(script(scenario, tuned(scenario), "tuned: $(date) `date`\nsecond line"))
    ran = run(path, "--port", "8000 1")
    assert ran.returncode == 0 and not ran.stderr
    mode, *given = ran.stdout.splitlines()
    assert mode == tuned(scenario).server.verify_mode
    assert given[given.index("--speculative-dspark-policy") + 1] == f"{folder}/policy.json"
    assert given[-2:] == ["--port", "8000 1"]


def test_a_script_without_a_path_says_what_it_needs(scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    nameless = scenario.model_copy(update={"model": 'my "own" $model'})
    path.write_text(script(nameless, baselines.default(nameless), "no path"))
    ran = run(path)
    assert ran.returncode != 0 and "MODEL: path or Hugging Face id of my own model" in ran.stderr
    assert run(path, MODEL="m", DRAFT="d").stdout.splitlines()[4] == "m"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(server=SERVERS, dtype=st.sampled_from(["auto", "bf16", "fp8", "fp4"]), tp=st.integers(1, 8))
def test_sglang_parses_every_command(
    parser: argparse.ArgumentParser, scenario: Scenario, server: Any, dtype: Any, tp: int
) -> None:
    served = scenario.model_copy(update={"kv_cache_dtype": dtype, "gpus": tp})
    for arm in (tuned(served)._replace(server=server), Arm("plain", server.without_speculation(), stock=True)):
        _, given = words(command(served, arm))
        read = parser.parse_args(given)
        assert read.model_path == "Qwen/Qwen3-8B" and read.tp_size == tp
        assert read.max_running_requests == arm.server.max_running_requests
        assert read.chunked_prefill_size == server.chunked_prefill_size
        assert (read.speculative_algorithm == "DSPARK") == arm.server.speculative
        assert read.kv_cache_dtype == {"fp8": "fp8_e4m3", "fp4": "nvfp4"}.get(dtype, dtype)


def test_sglang_parses_the_commands_of_a_new_scenario(parser: argparse.ArgumentParser) -> None:
    for model, gpu in (("DeepSeek-V4-Flash", "B200"), ("Qwen3-14B", "H200")):
        made = new_scenario(ModelOnGpus(model=model, gpu=gpu, tp=4), Traffic())
        for arm in (baselines.plain(made), baselines.default(made), baselines.on_stock(tuned(made)), tuned(made)):
            parser.parse_args(words(command(made, arm))[1])


def documented() -> list[str]:
    """Launch commands in README and docs."""
    commands = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            commands += [f"{page.name}: {line}" for line in lines if "sglang.launch_server" in line]
    return commands


@pytest.mark.parametrize("line", documented())
def test_sglang_parses_the_documented_commands(parser: argparse.ArgumentParser, line: str) -> None:
    given = shlex.split(line.split("sglang.launch_server", 1)[1], comments=True)
    given = [word for word in given if word not in ("...", "..")]
    if "--model-path" not in given:
        given += ["--model-path", "any"]
    parser.parse_args(given)


def test_the_documents_have_commands() -> None:
    assert len(documented()) >= 3 and sys.version_info
