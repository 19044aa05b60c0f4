"""Every way to start SGLang reads the plugin's flags and refuses a conflict before weights load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sglang_dspark.demo import DRAFT, TARGET
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import DSPARK, ENVIRONMENT, FLAGS, ServerProcess
from sglang_dspark.policy.artifact import save
from tests.live import servers

pytestmark = pytest.mark.xdist_group("overlap")

ENGINE = """
import os
os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
import sglang
if __name__ == "__main__":
    flags = {flags!r}
    sglang.Engine(**flags)
"""


FORKED = """
import json, os, runpy, sys
import sglang.srt.managers.scheduler
from sglang_dspark.serving import hooks
cases, codes = json.load(sys.stdin), {}
for name, case in cases.items():
    child = os.fork()
    if child == 0:
        sys.stdout.flush()
        os.dup2(os.open(case["log"], os.O_WRONLY | os.O_CREAT), 2)
        os.environ.update(case["environment"])
        hooks.SUPPORTED = tuple(case["supported"]) or hooks.SUPPORTED
        sys.argv = ["launch_server", *case["words"]]
        runpy.run_module("sglang.launch_server", run_name="__main__")
        sys.exit(0)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""
"""Starts of a server from one process that has imported SGLang, each in a fork of it."""


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **ENVIRONMENT, **environment},
    )


def words(flags: dict[str, str]) -> list[str]:
    return [word for flag, value in flags.items() for word in ((flag, value) if value else (flag,))]


def lines(log: str) -> list[str]:
    """Lines of a log in which the plugin refuses."""
    return [line for line in log.splitlines() if line.startswith("sglang-dspark: error:")]


LORA = {"--max-lora-rank": "8", "--lora-target-modules": "q_proj"}


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A policy for another block."""
    path = tmp_path / "policy.json"
    save(artifact("fixed").model_copy(update={"gamma": 5, "sts_temperatures": (1.0,) * 5}), path)
    return path


def test_launch_server_refuses_in_one_line(wrong: Path) -> None:
    ran = run("-m", "sglang.launch_server", *words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(wrong)}))
    assert ran.returncode == 2
    (line,) = lines(ran.stderr)
    assert str(wrong) in line and "gamma" in line and "--speculative-dspark-block-size 5" in line
    assert "Load weight" not in ran.stderr and "Traceback" not in ran.stderr


def test_sglang_serve_refuses_in_one_line(wrong: Path) -> None:
    command = ["-c", "from sglang.cli.main import main; main()", "serve"]
    ran = run(*command, *words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(wrong)}))
    assert ran.returncode == 2
    assert "gamma" in lines(ran.stderr)[0]


def test_a_config_file_is_read(wrong: Path, tmp_path: Path) -> None:
    content = {flag.removeprefix("--"): value or True for flag, value in {**FLAGS, **DSPARK}.items()}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(content | {"speculative-dspark-policy": str(wrong)}))
    ran = run("-m", "sglang.launch_server", "--config", str(config))
    assert ran.returncode == 2
    assert "gamma" in lines(ran.stderr)[0]


def test_the_engine_raises(wrong: Path, tmp_path: Path) -> None:
    flags = {
        "model_path": str(TARGET),
        "device": "cpu",
        "attention_backend": "torch_native",
        "speculative_algorithm": "DSPARK",
        "speculative_draft_model_path": str(DRAFT),
        "speculative_draft_attention_backend": "torch_native",
        "speculative_dspark_policy": str(wrong),
    }
    script = tmp_path / "engine.py"
    script.write_text(ENGINE.format(flags=flags))
    ran = run(str(script))
    assert ran.returncode == 1
    assert "InputError" in ran.stderr.splitlines()[-1] and "gamma" in ran.stderr.splitlines()[-1]


class Start(NamedTuple):
    """A start that is refused.

    Attributes:
        flags: Added to those of a server with a policy.
        environment: Variables of its process.
        message: Part of the refusal.
        supported: Versions of SGLang that the plugin takes for supported; its own where empty.
    """

    flags: dict[str, str]
    environment: dict[str, str]
    message: str
    supported: tuple[str, ...] = ()


STARTS = {
    "missing": Start({"--speculative-dspark-policy": "/nowhere.json"}, {}, "/nowhere.json: cannot be read"),
    "sps": Start({"--speculative-dspark-sps-table-path": "x.json"}, {}, "--speculative-dspark-sps-table-path"),
    "simulated": Start({}, {"SGLANG_SIMULATE_ACC_LEN": "3"}, "SGLANG_SIMULATE_ACC_LEN: 3 accepts drafts"),
    "recorded": Start({"--enable-lora": "", **LORA, "--speculative-dspark-record": "x"}, {}, "whole blocks"),
    "unsupported": Start({}, {}, "sglang 0.5.23 is not supported", ("9.9.9",)),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Standard error of each start, all of which end with code 2."""
    folder = tmp_path_factory.mktemp("refusals")
    policy = folder / "policy.json"
    save(artifact("fixed"), policy)
    cases = {
        name: {
            "words": words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(policy), **start.flags}),
            "environment": start.environment,
            "supported": start.supported,
            "log": str(folder / f"{name}.log"),
        }
        for name, start in STARTS.items()
    }
    ran = run("-c", FORKED, text=json.dumps(cases), SGLANG_USE_CPU_ENGINE="1")
    logs = {name: Path(case["log"]).read_text() for name, case in cases.items()}
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == dict.fromkeys(STARTS, 2), logs
    return logs


@pytest.mark.parametrize("name", ["missing", "sps", "simulated", "recorded"])
def test_what_does_not_fit_together_is_refused(refusals: dict[str, str], name: str) -> None:
    assert STARTS[name].message in lines(refusals[name])[0]


def test_an_unsupported_sglang_is_refused_in_one_line(refusals: dict[str, str]) -> None:
    (line,) = lines(refusals["unsupported"])
    assert STARTS["unsupported"].message in line and "9.9.9" in line
    assert "usage:" not in refusals["unsupported"] and "Traceback" not in refusals["unsupported"]


def test_a_server_that_verifies_whole_blocks_takes_a_policy_and_says_what_is_not_steered(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    save(artifact("fixed").model_copy(update={"serve": "plain", "advice": "Serve without speculation."}), path)
    log = tmp_path / "server.log"
    flags = {**DSPARK, "--speculative-dspark-policy": str(path)}
    with ServerProcess(log, flags, {"SGLANG_RAGGED_VERIFY_MODE": "static"}, servers.FORKED) as server:
        made = server.post("/generate", {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 8}})
        state = server.state()
    assert made["meta_info"]["completion_tokens"] == 8
    assert "dspark_policy" not in state
    text = log.read_text()
    assert "Serve without speculation." in text
    (line,) = (line for line in text.splitlines() if "are not steered" in line)
    assert "SGLANG_RAGGED_VERIFY_MODE=static" in line
