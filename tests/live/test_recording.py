"""Recording and loading the real server: every step of it, and the same figures as SGLang's own benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from dspark_simulator.scenario import Run
from dspark_simulator.workloads import Workload
from dspark_tuning.calibrate.calibration import calibrate
from dspark_tuning.load.drive import Loaded, drive
from dspark_tuning.load.result import result
from dspark_tuning.recording.schema import read
from dspark_tuning.remote import Client
from dspark_tuning.sim2real.measure import recording
from dspark_tuning.sim2real.servers import GUESS, artifact
from sglang_dspark.demo import TARGET
from sglang_dspark.drafter.text import CLASSES, held_out
from sglang_dspark.policy import Fixed, NoDraft
from tests.live import servers

pytestmark = pytest.mark.parametrize("steered", [servers.COMPACT_SYNC], indirect=True)

PROMPT, OUTPUT, CLIENTS, REQUESTS = 64, 32, 4, 48
# The machine is busy: figures of the two clients are medians of interleaved runs, and still differ by this much; one
# prefill, most of all.
NOISE = {"throughput": 0.3, "ttft": 0.6, "tpot": 0.3, "itl": 0.3}
# ``python -m sglang.bench_serving`` beside PyTorch's CPU wheel.
LAUNCH = """
import runpy
from sglang_dspark.serving import cpu
from sglang_dspark.serving.cpu import torchvision_stand_in
cpu.prepare(("--device", "cpu"))
torchvision_stand_in.install()
runpy.run_module("sglang.bench_serving", run_name="__main__")
"""


def workload() -> Workload:
    classes = [
        {
            "name": name,
            "domain": "alpaca",
            "prompt": {"kind": "fixed", "tokens": PROMPT},
            "output": {"kind": "fixed", "tokens": OUTPUT},
            "slo": {"ttft_s": 10.0, "tpot_s": 1.0},
        }
        for name in CLASSES
    ]
    return Workload.model_validate({"arrivals": {"kind": "closed", "clients": CLIENTS}, "classes": classes})


def load(steered: servers.Steered, requests: int, texts: bool = True) -> Loaded:
    prompts = {name: held_out(name, 24, PROMPT, 4) for name in CLASSES} if texts else None
    run = Run(requests=requests, warmup_requests=0, drain=True)
    return drive(Client(steered.server.url), workload(), run, 5, prompts)


def test_every_round_of_every_request_is_recorded(steered: servers.Steered, tmp_path: Path) -> None:
    steered.use(artifact(Fixed(length=7), GUESS))
    with recording(steered.server, tmp_path / "run.parquet"):
        loaded = load(steered, 24)
    assert not loaded.failed
    record = read([tmp_path / "run.parquet"])
    assert record.abouts[0].source == "dspark" and record.abouts[0].lost == 0
    steps = record.steps.to_pandas()
    decodes, prefills = steps[steps["kind"] == "decode"], steps[steps["kind"] == "prefill"]
    prompts = sum(r.prompt_tokens for r in loaded.requests)
    # Some begin alike, and the prefix cache has that.
    assert 0.98 * prompts <= prefills["prefill_tokens"].sum() <= prompts
    assert decodes["requests"].sum() == sum(r.rounds for r in loaded.requests)
    # The first token is the prefill's; the last round may go past what was asked for.
    accepted = sum(int(np.sum(lengths)) for lengths in decodes["accepted_length"])
    wanted = 24 * (OUTPUT - 1)
    assert wanted <= accepted <= wanted + 24 * 7
    assert (decodes["verify_tokens"] == 8 * decodes["requests"]).all()
    assert all(len(row) == 7 * n for row, n in zip(decodes["confidence"], decodes["requests"], strict=True))


def test_a_short_record_calibrates(steered: servers.Steered, tmp_path: Path) -> None:
    with recording(steered.server, tmp_path / "run.parquet"):
        for policy in (NoDraft(), Fixed(length=3), Fixed(length=7)):
            steered.use(artifact(policy, GUESS))
            load(steered, 24)
    found = calibrate([tmp_path / "run.parquet"])
    assert found.profile.server.capture_requests == 0
    assert found.acceptance is not None and set(found.acceptance.classes) >= set(CLASSES)
    parts = {error.part: error for error in found.cost.errors}
    assert {"step with a draft", "step without a draft", "prefill"} <= set(parts)
    # Other tests share the machine; how close it comes on an idle one is sim2real's to say.
    assert parts["step with a draft"].median < 0.4
    assert float(found.profile.cost.tabulate()[0]["draft_s"][1]) > 0.0, "a draft costs something"


def test_figures_are_those_of_sglangs_benchmark(steered: servers.Steered, tmp_path: Path) -> None:
    steered.use(artifact(NoDraft(), GUESS))
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for turn in range(3):
        found = result(load(steered, REQUESTS, texts=False))
        for name, value in (
            ("throughput", found.throughput_tok_s),
            ("ttft", found.ttft.mean_s),
            ("tpot", found.tpot.mean_s),
            ("itl", found.itl.mean_s),
        ):
            ours.setdefault(name, []).append(value)
        told = bench_serving(steered, tmp_path / f"bench{turn}.json")
        for name, key, unit in (
            ("throughput", "output_throughput", 1.0),
            ("ttft", "mean_ttft_ms", 1e-3),
            ("tpot", "mean_tpot_ms", 1e-3),
            ("itl", "mean_itl_ms", 1e-3),
        ):
            theirs.setdefault(name, []).append(told[key] * unit)
    apart = {name: median(ours[name]) / median(theirs[name]) - 1 for name in ours}
    print("ours over bench_serving:", {name: f"{value:+.1%}" for name, value in apart.items()})
    assert all(abs(value) < NOISE[name] for name, value in apart.items()), apart


def bench_serving(steered: servers.Steered, out: Path) -> dict[str, float]:
    command = [
        *(sys.executable, "-c", LAUNCH, "--backend", "sglang", "--base-url", steered.server.url),
        *("--model", str(TARGET), "--tokenizer", str(TARGET), "--dataset-name", "random-ids", "--tokenize-prompt"),
        *("--random-input-len", str(PROMPT), "--random-output-len", str(OUTPUT), "--random-range-ratio", "1.0"),
        *("--num-prompts", str(REQUESTS), "--max-concurrency", str(CLIENTS), "--warmup-requests", "2"),
        *("--output-file", str(out), "--disable-tqdm", "--flush-cache"),
    ]
    # It imports a library of data sets, which random ids do without.
    (out.parent / "datasets.py").write_text("load_dataset = None\n")
    environment = {**os.environ, "PYTHONPATH": str(out.parent)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return dict(json.loads(out.read_text().splitlines()[-1]))
