"""The launch script of a plan starts the server that was planned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dspark_simulator.model_on_gpus import ModelOnGpus
from dspark_simulator.new_scenario import Traffic
from dspark_simulator.simulation import Arm
from dspark_tuning.planning import of_model
from dspark_tuning.planning.deployments import deployment
from dspark_tuning.planning.launch_script import launch
from dspark_tuning.planning.plan import Plan
from dspark_tuning.search.launch_command import LAUNCH, POLICY
from sglang_dspark.demo import DRAFT, TARGET
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import DSPARK, FLAGS, ServerProcess
from sglang_dspark.policy.artifact import save

# What a CPU needs beyond the planned flags.
PLANNED = ("--model-path", "--max-running-requests", "--speculative-algorithm", "--speculative-draft-model-path")


def test_the_planned_server_starts_and_follows_its_policy(tmp_path: Path) -> None:
    folder = tmp_path / "a plan"
    folder.mkdir()
    question = of_model(
        ModelOnGpus(model=str(TARGET), draft=DRAFT, gpu="L40S"), Traffic(isl=48, osl=24, rate=4.0, ttft_s=5.0)
    )
    planned = deployment(question, question.choices[0])
    flags = {"max_running_requests": 12, "capture_requests": 12, "verify_mode": "compact"}
    server = planned.scenario.server.model_copy(update=flags)
    made = artifact("threshold")
    arm = Arm("tuned", server, made.policy, made.cost_belief)
    save(made, folder / POLICY)
    (folder / LAUNCH).write_text(launch(Plan("L40S", "tuned", planned.scenario, arm, 1.0, None, None)))

    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = ServerProcess(tmp_path / "log", {}, python)
    on_cpu = {flag: value for flag, value in {**FLAGS, **DSPARK}.items() if flag not in PLANNED}
    words = [word for flag, value in on_cpu.items() for word in (flag, value) if word]
    process.command = [
        "sh",
        str(folder / LAUNCH),
        *words,
        "--mem-fraction-static",
        "0.5",
        "--disable-overlap-schedule",
        *process.command[-4:],
    ]
    with process as running:
        info = running.info()
        answer = running.post("/generate", {"text": "The quick", "sampling_params": {"max_new_tokens": 24}})
    assert info["model_path"] == str(TARGET) and info["max_running_requests"] == 12
    assert info["speculative_draft_model_path"] == str(DRAFT) and info["speculative_algorithm"] == "DSPARK"
    assert answer["meta_info"]["completion_tokens"]
    assert str(folder / POLICY) in (tmp_path / "log").read_text()
