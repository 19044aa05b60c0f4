"""The flag reaches every way of starting SGLang, and what does not fit is refused there before weights load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_dspark.demo import DRAFT, TARGET
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import DSPARK, ENVIRONMENT, FLAGS, ServerProcess
from sglang_dspark.policy.artifact import save

pytestmark = pytest.mark.xdist_group("overlap")

ENGINE = """
import os
os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
import sglang
if __name__ == "__main__":
    flags = {flags!r}
    sglang.Engine(**flags)
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **ENVIRONMENT, **environment},
    )


def words(flags: dict[str, str]) -> list[str]:
    return [word for flag, value in flags.items() for word in ((flag, value) if value else (flag,))]


def lines(ran: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ran.stderr.splitlines() if line.startswith("sglang-dspark: error:")]


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
    (line,) = lines(ran)
    assert str(wrong) in line and "gamma" in line and "--speculative-dspark-block-size 5" in line
    assert "Load weight" not in ran.stderr and "Traceback" not in ran.stderr


def test_sglang_serve_refuses_in_one_line(wrong: Path) -> None:
    command = ["-c", "from sglang.cli.main import main; main()", "serve"]
    ran = run(*command, *words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(wrong)}))
    assert ran.returncode == 2
    assert "gamma" in lines(ran)[0]


def test_a_config_file_is_read(wrong: Path, tmp_path: Path) -> None:
    content = {flag.removeprefix("--"): value or True for flag, value in {**FLAGS, **DSPARK}.items()}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(content | {"speculative-dspark-policy": str(wrong)}))
    ran = run("-m", "sglang.launch_server", "--config", str(config))
    assert ran.returncode == 2
    assert "gamma" in lines(ran)[0]


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


def test_an_unsupported_sglang_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    save(artifact("fixed"), path)
    script = (
        "import runpy, sys; from sglang_dspark.serving import hooks; hooks.SUPPORTED = ('9.9.9',); "
        "runpy.run_module('sglang.launch_server', run_name='__main__', alter_sys=True)"
    )
    ran = run("-c", script, *words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(path)}))
    assert ran.returncode == 2
    (line,) = lines(ran)
    assert "sglang 0.5.23 is not supported" in line and "9.9.9" in line
    assert "usage:" not in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "flags", "environment", "says"),
    [
        ("missing", {"--speculative-dspark-policy": "/nowhere.json"}, {}, "/nowhere.json: cannot be read"),
        ("sps", {"--speculative-dspark-sps-table-path": "x.json"}, {}, "--speculative-dspark-sps-table-path"),
        ("simulated", {}, {"SGLANG_SIMULATE_ACC_LEN": "3"}, "SGLANG_SIMULATE_ACC_LEN: 3 accepts drafts"),
        ("recorded", {"--enable-lora": "", **LORA, "--speculative-dspark-record": "x"}, {}, "whole blocks"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, name: str, flags: dict[str, str], environment: dict[str, str], says: str
) -> None:
    path = tmp_path / "policy.json"
    save(artifact("fixed"), path)
    ran = run(
        "-m",
        "sglang.launch_server",
        *words({**FLAGS, **DSPARK, "--speculative-dspark-policy": str(path), **flags}),
        **environment,
    )
    assert ran.returncode == 2, ran.stderr[-2000:]
    assert says in lines(ran)[0]


def test_a_server_that_verifies_whole_blocks_takes_a_policy_and_says_what_is_not_steered(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    save(artifact("fixed").model_copy(update={"serve": "plain", "advice": "Serve without speculation."}), path)
    log = tmp_path / "server.log"
    flags = {**DSPARK, "--speculative-dspark-policy": str(path)}
    with ServerProcess(log, flags, {"SGLANG_RAGGED_VERIFY_MODE": "static"}) as server:
        made = server.post("/generate", {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 8}})
        state = server.state()
    assert made["meta_info"]["completion_tokens"] == 8
    assert "dspark_policy" not in state
    text = log.read_text()
    assert "Serve without speculation." in text
    (line,) = (line for line in text.splitlines() if "are not steered" in line)
    assert "SGLANG_RAGGED_VERIFY_MODE=static" in line
