"""The kernels' bench: what it compares, how it times, what it writes; on stand-ins where it needs a GPU."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from dspark_kernels import launch_configs
from dspark_kernels.bench import command, nearby_configs, operations, timing
from dspark_kernels.bench.operations import ROUND
from dspark_kernels.bench.timing import Timing
from dspark_kernels.startup import bench_results, selfcheck
from dspark_kernels.startup.served_shapes import ServedShapes

SMALL = ServedShapes.of(torch.float32, vocab=1000, hidden=64, requests=5)


def test_the_bench_compares_every_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault at 20 requests, where no tile changes."""
    true = selfcheck.acceptance.accept

    def broken(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        return found._replace(tokens=found.tokens + 1) if len(found.tokens) == 20 else found

    monkeypatch.setattr(selfcheck.acceptance, "accept", broken)
    cpu, served = torch.device("cpu"), ServedShapes(rank=32, requests=24)
    assert selfcheck.differing(cpu, served) == {}
    found = selfcheck.differing(cpu, served, every=True)
    assert found == {"accept": "accept: ends rounds with other tokens at 20 requests"}


class FakeGpu:
    """``torch.cuda`` as far as the bench uses it: notes the order of what it is asked for."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu, null = self, contextlib.nullcontext
        event = SimpleNamespace(record=lambda: gpu.log.append("event"), synchronize=lambda: None)
        event.elapsed_time = lambda last: 0.5
        stream = SimpleNamespace(wait_stream=lambda other: None)
        graph = SimpleNamespace(replay=lambda: gpu.log.append("replay"))
        cold = SimpleNamespace(sum=lambda: gpu.log.append("cold"))
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda side: null())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph: null())
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20))
        monkeypatch.setattr(torch, "zeros", lambda size, dtype, device: cold)


def test_the_bench_times_replays_of_graphs_with_cold_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    with monkeypatch.context() as patch:
        gpu.install(patch)
        replayed = timing.replay(lambda: gpu.log.append("call"))
        assert gpu.log == ["call"] * 4
        gpu.log.clear()
        assert timing.time_call(replayed, 2) == (500.0, 500.0, 500.0)
    assert gpu.log == ["replay"] + ["cold", "event", "replay", "event"] * 2


def test_the_bench_without_a_gpu_goes_as_far_as_a_launch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch_configs, "TARGETS", {"sm_90": launch_configs.TARGETS["sm_90"]})
    assert command.main(["--vocab", "5000"]) == 2
    printed = capsys.readouterr()
    for operation in operations.OPERATIONS:
        assert f"{operation}: reference runs" in printed.out
    assert re.search(r"sm_90: \d+ kernels compiled for 64 requests, 0 spill", printed.out)
    assert "nothing was launched and nothing timed" in printed.err


@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn"])
def test_its_options_name_every_shape_that_a_result_holds_for(kind: Any) -> None:
    """What a server's log says to run times that server's draft."""
    served = ServedShapes(kind, 1000, 32, 64, 3, 20, torch.float32, torch.float16, torch.float16, torch.float32)
    parsed, _ = command._parse(["--requests", "20", *served.flags().split()])
    assert parsed == served


def test_an_option_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--repeat", "0"), ("--requests", "1025"), ("--vocab", "63"), ("--gamma", "17")):
        with pytest.raises(SystemExit) as stopped:
            command.main([option, value])
        assert stopped.value.code == 2 and f"{option}: {int(value):,}, expected" in capsys.readouterr().err


class OnTheDevice(TorchFunctionMode):
    """Fails where a tensor is made without saying on which device."""

    MADE = (torch.arange, torch.empty, torch.full, torch.ones, torch.tensor, torch.zeros)

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert function not in self.MADE or "device" in (kwargs or {}), f"{function.__name__} names no device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn"])
def test_references_and_launchers_stay_on_the_device_of_what_they_are_given(kind: Any) -> None:
    """The bench and the start-up check run both on a GPU, beside nothing that lies in the CPU's memory."""
    given = operations.inputs(SMALL._replace(kind=kind), torch.device("cpu"))
    with OnTheDevice():
        for calls in (operations.references(given), operations.ours(given)):
            for call in calls.values():
                call()


def test_sglangs_own_operations_run_on_the_inputs_and_draft_the_same_greedy_tokens() -> None:
    """In a process whose kernels are interpreted: SGLang's acceptance is a Triton kernel."""
    program = """
import torch
from sglang_dspark.cpu_engine import early
early.prepare([])
torch.manual_seed(0)
from dspark_kernels.bench import operations
from dspark_kernels.startup.served_shapes import ServedShapes
from sglang_dspark.serving.evidence import upstream_calls
for kind, w2 in (("vanilla", "float32"), ("gated", "float32"), ("rnn", "float32"), ("vanilla", "bfloat16")):
    served = ServedShapes.of(torch.float32, kind=kind, vocab=500, requests=5, hidden=64)._replace(w2=getattr(torch, w2))
    given = operations.inputs(served, torch.device("cpu")).first(3)
    ours, theirs = operations.references(given), upstream_calls.calls(given, served)
    assert ours.keys() == theirs.keys()
    results = {name: call() for name, call in theirs.items()}
    # SGLang rounds the bias to the dtype of W2 before it adds it, which may change a token.
    if w2 == "float32":
        assert torch.equal(results["draft greedy"][0], ours["draft greedy"]().tokens), kind
    wanted = torch.sigmoid(ours["confidence"]().logits)
    torch.testing.assert_close(results["confidence"], wanted)
    assert torch.equal(results["lengths"].int(), ours["lengths"]()), kind
"""
    variables = {"TRITON_INTERPRET": "1", "SGLANG_USE_CPU_ENGINE": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


class Pool:
    """A pool of processes that runs what it is given here and now."""

    def __init__(self, **options: Any) -> None:
        self.ran: list[str] = []

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Nothing runs any more."""

    def map(self, function: Callable[..., Any], *columns: Any) -> Any:
        self.ran.append(function.__name__)
        return map(function, *columns)

    def submit(self, function: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*given))
        except Exception as error:
            done.set_exception(error)
        return done


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """A GPU on which references stand for kernels and calls take the times that a test puts into the dict.

    Microseconds by ``"ours OPERATION"`` and ``"theirs OPERATION"``; 10 where nothing is put.
    """
    times_us: dict[str, float] = {}
    cpu = torch.device("cpu")

    def named(who: str, calls: operations.Calls) -> operations.Calls:
        return {name: _Named(f"{who} {name}", call) for name, call in calls.items()}

    def time_call(call: Any, repeat: int) -> Timing:
        call()
        return Timing(*(times_us.get(getattr(call, "name", ""), 10.0),) * 3)

    ours, theirs = operations.ours, operations.references
    monkeypatch.setattr(operations, "ours", lambda given, scan=None: named("ours", ours(given)))
    monkeypatch.setattr(command, "upstream", lambda given, served: named("theirs", theirs(given)))
    monkeypatch.setattr(command, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(command, "CHECKED", 4)
    monkeypatch.setattr(command, "compile_at", lambda *given: 0)
    monkeypatch.setattr(nearby_configs, "_compile", lambda *given: None)
    monkeypatch.setattr(timing, "DEVICE", cpu)
    monkeypatch.setattr(timing, "replay", lambda call: call)
    monkeypatch.setattr(timing, "time_call", time_call)
    monkeypatch.setattr(timing, "copy_bytes_per_s", lambda: 1e12)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Imaginary")
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv(bench_results.VARIABLE, str(tmp_path / "kernels.json"))
    return times_us


class _Named:
    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self.name, self.call = name, call

    def __call__(self) -> object:
        return self.call()


OPTIONS = ["--vocab", "64", "--rank", "8", "--hidden", "16", "--gamma", "2", "--repeat", "1", "--requests", "3"]


def test_a_stage_wins_that_is_faster_in_all_its_operations(gpu: dict[str, float], tmp_path: Path) -> None:
    """Greedy drafts are slower than SGLang's here, and so drafting is not won; confidence is as fast, and not won."""
    gpu |= {"theirs draft sampled": 20.0, "theirs draft greedy": 9.0, "theirs accept": 11.0, "theirs lengths": 30.0}
    out = tmp_path / "report.json"
    assert command.main([*OPTIONS, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["wins"] == {"draft": False, "confidence": False, "lengths": True, "accept": True}
    rows = {(row["operation"], row["requests"]): row for row in report["rows"]}
    assert len(rows) == 6 * 3 and rows["draft sampled", 2]["of_upstream"] == 0.5
    assert rows["draft greedy", 1]["goal_missed"] and not rows["draft sampled", 1]["goal_missed"]
    bound_us = (
        1e6 * operations.moved_bytes(command._parse(OPTIONS)[0], 2, launch_configs.TARGETS["sm_90"])[ROUND] / 1e12
    )
    assert rows[ROUND, 2]["bound_us"] == bound_us and rows[ROUND, 2]["of_bound"] == 10.0 / bound_us
    served, _ = command._parse(OPTIONS)
    entry = json.loads((tmp_path / "kernels.json").read_text())["results"][bench_results.key(timing.DEVICE, served)]
    assert entry["wins"] == report["wins"] and entry["requests"] == 3


def test_a_stage_that_is_not_its_reference_does_not_win(
    gpu: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu |= {f"theirs {operation}": 20.0 for operation in operations.OPERATIONS}
    true = selfcheck.acceptance.accept

    def broken(*given: Any, **named: Any) -> Any:
        accepted = true(*given, **named)
        return accepted._replace(tokens=accepted.tokens + 1) if len(accepted.tokens) == 4 else accepted

    monkeypatch.setattr(selfcheck.acceptance, "accept", broken)
    out = tmp_path / "report.json"
    assert command.main([*OPTIONS, "--out", str(out)]) == 1
    report = json.loads(out.read_text())
    assert report["wins"] == {"draft": True, "confidence": True, "lengths": True, "accept": False}
    assert report["differing"] == {"accept": "accept: ends rounds with other tokens at 4 requests"}


def test_nothing_is_won_where_time_ran_out(gpu: dict[str, float], tmp_path: Path) -> None:
    gpu |= {f"theirs {operation}": 20.0 for operation in operations.OPERATIONS}
    out = tmp_path / "report.json"
    assert command.main([*OPTIONS, "--out", str(out), "--budget-s", "0"]) == 0
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 1 and not any(report["wins"].values())


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, AssertionError])
def test_a_contestant_that_fails_is_left_out_and_not_tried_again(
    gpu: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
) -> None:
    """A reference writes whole distributions, which may not fit; SGLang's may not be captured."""

    def fail() -> None:
        raise kind("no memory\nat all")

    monkeypatch.setattr(command, "upstream", lambda given, served: {"accept": fail})
    out = tmp_path / "report.json"
    assert command.main([*OPTIONS, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert all(row["upstream"] is None and row["of_upstream"] is None for row in report["rows"])
    assert capsys.readouterr().err == f"SGLang's accept at 1: {kind.__name__}: no memory\n"
    assert not any(report["wins"].values()) and report["flashinfer"] is None


def test_figures_are_written_before_advice_is_sought(
    gpu: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilers may take all of the time that is left."""

    def ended(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nearby_configs, "advise", ended)
    out = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        command.main([*OPTIONS, "--out", str(out)])
    assert len(json.loads(out.read_text())["rows"]) == 6 * 3 and (tmp_path / "kernels.json").exists()


def test_a_goal_is_speed_against_sglang_and_in_large_batches_against_memory() -> None:
    def row(operation: str, requests: int, ours_us: float, upstream_us: float) -> command.BenchRow:
        return command.BenchRow(operation, requests, Timing(ours_us, 0, 0), Timing(upstream_us, 0, 0), None, 100.0)

    assert row("draft sampled", 64, 116.0, 200.0).missed and not row("draft sampled", 64, 114.0, 200.0).missed
    assert not row("draft sampled", 63, 300.0, 301.0).missed and row("draft sampled", 1, 300.0, 300.0).missed
    assert not row("lengths", 256, 300.0, 301.0).missed


def test_configurations_nearby_are_timed_and_the_fastest_named(
    gpu: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = launch_configs.TARGETS["sm_90"].single[0]
    near = list(nearby_configs.neighbours(now, 132))
    assert len(near) == len(set(near)) >= 8 and now not in near
    assert all(sum(a != b for a, b in zip(scan, now, strict=True)) == 1 for scan in near)
    times_us = dict(zip(near, [9.0, 50.0, 7.0, 8.0] + [60.0] * len(near), strict=False))

    def ours(given: Any, scan: launch_configs.ScanConfig) -> operations.Calls:
        if scan == near[2]:
            raise RuntimeError("out of resources")
        return {"accept": _Named(str(scan), lambda: None)}

    gpu |= {str(scan): time_us for scan, time_us in times_us.items()}
    monkeypatch.setattr(operations, "ours", ours)
    case, target = nearby_configs.MissedGoal("accept", 2, 10.0), launch_configs.TARGETS["sm_90"]
    advice = nearby_configs.advise(SMALL, [case], target, Pool(), 1, float("inf"))  # type: ignore[arg-type]
    assert advice == [nearby_configs.ConfigAdvice("accept", 2, now, 10.0, near[3], 8.0)]
    late = nearby_configs.advise(SMALL, [case], target, Pool(), 1, 0.0)  # type: ignore[arg-type]
    assert late == []
