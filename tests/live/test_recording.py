"""Recording and load generation on a real server, against SGLang's own benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dspark_simulator.scenario import Run
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.calibrate.calibration import calibrate
from dspark_tuning.measuring.load.drive import Loaded, drive
from dspark_tuning.measuring.load.request import ResponseStream
from dspark_tuning.measuring.load.result import result
from dspark_tuning.measuring.recording.schema import read
from dspark_tuning.measuring.sim2real.measure import recording
from dspark_tuning.measuring.sim2real.servers import GUESS, artifact
from sglang_dspark.demo import TARGET
from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.local_server.closed_loop import closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.policy import Fixed, NoDraft
from sglang_dspark.sglang_client import Client
from tests.live import servers

pytestmark = pytest.mark.parametrize("steered", [servers.COMPACT_SYNC], indirect=True)

PROMPT, OUTPUT, CLIENTS, REQUESTS = 64, 32, 4, 48
# ``python -m`` for modules of SGLang's benchmark, beside PyTorch's CPU wheel.
LAUNCH = """
import runpy
from sglang_dspark import cpu_engine
from sglang_dspark.cpu_engine import torchvision_stand_in
cpu_engine.prepare(("--device", "cpu"))
torchvision_stand_in.install()
runpy.run_module("{module}", run_name="__main__")
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


def load(steered: servers.SteeredServer, requests: int, texts: bool = True) -> Loaded:
    prompts = {name: held_out(name, 24, PROMPT, 4) for name in CLASSES} if texts else None
    run = Run(requests=requests, warmup_requests=0, drain=True)
    return drive(Client(steered.server.url), workload(), run, 5, prompts)


def test_every_round_of_every_request_is_recorded(steered: servers.SteeredServer, tmp_path: Path) -> None:
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


def test_waiting_requests_are_recorded_as_they_are(steered: servers.SteeredServer, tmp_path: Path) -> None:
    """With more clients than may run, the recorded queue fills and drains."""
    running, clients = int(servers.FLAGS["--max-running-requests"]), 44
    with recording(steered.server, tmp_path / "run.parquet"):
        assert not closed_loop(steered.server, mixed()[: 2 * clients], clients, ignore_eos=True).failed
    steps = read([tmp_path / "run.parquet"]).steps.to_pandas()
    decodes = steps[steps["kind"] == "decode"]
    full = decodes[decodes["requests"] == running]
    assert len(full) and full["queued"].max() > 3 and full["queued"].max() <= clients - running
    assert decodes["queued"].nunique() > 3 and decodes["queued"].iloc[-1] == 0


def test_a_short_record_calibrates(steered: servers.SteeredServer, tmp_path: Path) -> None:
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


class Recorded(ResponseStream):
    """A stream that keeps its lines, each with the number of chunks that had come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def take(self, line: bytes) -> None:
        super().take(line)
        self.lines.append((len(self.at_s), line.decode()))


def test_figures_are_those_of_sglangs_benchmark_on_the_same_streams(
    steered: servers.SteeredServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both clients read the same lines at the same recorded times, so machine noise is in both."""
    steered.use(artifact(Fixed(length=7), GUESS))
    streams: list[Recorded] = []
    # A closed loop makes them in the order of its requests.
    monkeypatch.setattr(
        "dspark_tuning.measuring.load.drive.ResponseStream", lambda: streams.append(Recorded()) or streams[-1]
    )
    loaded = load(steered, REQUESTS)
    recorded = [
        {
            "sent_s": request.sent_s,
            "prompt_tokens": PROMPT,
            "output_tokens": OUTPUT,
            # A line without tokens, such as the last, comes with the chunk before it.
            "lines": [([request.sent_s, *request.chunk_s][chunks], line) for chunks, line in stream.lines],
        }
        for request, stream in zip(loaded.requests, streams, strict=True)
    ]
    (tmp_path / "streams.json").write_text(
        json.dumps({"streams": recorded, "window_s": loaded.closed_s - loaded.opened_s})
    )
    theirs = json.loads(beside_cpu_torch(tmp_path, "tests.live.bench_replay", str(tmp_path / "streams.json")))
    ours = result(loaded)
    assert theirs["lengths"] == [request.output_tokens for request in loaded.requests] == [OUTPUT] * REQUESTS
    assert any(tokens > 1 for request in loaded.requests for tokens in request.chunk_tokens)
    for request, itl_s in zip(loaded.requests, theirs["itls"], strict=True):
        # They leave out tokens that come with the first one.
        assert request.itl_s()[request.chunk_tokens[0] - 1 :].tolist() == pytest.approx(itl_s)
    metrics = theirs["metrics"]
    assert metrics["completed"] == REQUESTS
    assert metrics["output_throughput"] == pytest.approx(ours.throughput_tok_s)
    for name, latency in (("ttft", ours.ttft), ("tpot", ours.tpot)):
        told = [metrics[f"{part}_{name}_ms"] / 1e3 for part in ("mean", "median", "p90", "p99")]
        assert told == pytest.approx([latency.mean_s, latency.p50_s, latency.p90_s, latency.p99_s])


def test_sglangs_benchmark_counts_what_ours_counts(steered: servers.SteeredServer, tmp_path: Path) -> None:
    steered.use(artifact(NoDraft(), GUESS))
    loaded = load(steered, REQUESTS, texts=False)
    out = tmp_path / "bench.json"
    beside_cpu_torch(
        tmp_path,
        "sglang.bench_serving",
        *("--backend", "sglang", "--base-url", steered.server.url, "--model", str(TARGET), "--tokenizer", str(TARGET)),
        *("--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1.0"),
        *("--random-input-len", str(PROMPT), "--random-output-len", str(OUTPUT)),
        *("--num-prompts", str(REQUESTS), "--max-concurrency", str(CLIENTS), "--warmup-requests", "2"),
        *("--output-file", str(out), "--output-details", "--disable-tqdm", "--flush-cache"),
    )
    theirs = json.loads(out.read_text().splitlines()[-1])
    assert theirs["completed"] == len(loaded.requests) - len(loaded.failed) == REQUESTS
    assert theirs["input_lens"] == [request.prompt_tokens for request in loaded.requests]
    assert theirs["output_lens"] == [request.output_tokens for request in loaded.requests]
    # They leave out tokens that come with the first one.
    assert all(len(itl_s) < OUTPUT for itl_s in theirs["itls"])
    assert {len(request.itl_s()) for request in loaded.requests} == {OUTPUT - 1}
    # Neither client ever has more requests at the server than it was to have.
    assert theirs["concurrency"] <= CLIENTS
    assert result(loaded).running + result(loaded).queued <= CLIENTS


def beside_cpu_torch(folder: Path, module: str, *arguments: str) -> str:
    """The output of a module of SGLang's benchmark, run as a script beside PyTorch's CPU wheel."""
    # It imports a library of data sets, which random ids do without.
    (folder / "datasets.py").write_text("load_dataset = None\n")
    paths = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-c", LAUNCH.format(module=module), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": paths})
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout
