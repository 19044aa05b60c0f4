"""Host time of a live decision beside that of SGLang's own planner, in one process."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from sglang_dspark.policy import sglang_tiers
from sglang_dspark.policy.belief import sps_json
from sglang_dspark.serving import step_hooks
from sglang_dspark.serving.evidence.offline import BELIEF, GAMMA, artifact, attach, batch, planner
from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.steps import Geometry

REQUESTS: Final = (16, 256, 1024)

STEPS: Final = 600
REPEATS: Final = 3
STEP_S: Final = 0.004
ANSWER_STEPS: Final = 32
TOKENS: Final = 3


def run(rounds: int = 1000) -> dict[str, dict[str, float]]:
    """Time the decision of a step, ours and upstream's, by running requests.

    Ours is all that the hooks add to a step's preparation: the load is noted, ``compute_budget`` answers, the ranks
    (one) agree. Both see the same confidences; upstream's has the additive table of the same belief.

    The recorder's time is what a recorded step costs the scheduler beyond one that is not: every request's context and
    class are noted, and the outcome is handed to the thread that writes.

    Its effect on a request is in the time per output token: steps of ``STEP_S`` on a device that needs no
    interpreter, without and with the recorder's thread beside them.

    Returns:
        Microseconds, medians over ``rounds``, and ours over upstream's; TPOT p99 in milliseconds without and with
        recording.
    """
    torch.set_num_threads(1)
    times = {}
    with planner(tiers=sglang_tiers(1024, GAMMA).tolist()) as ours, planner() as theirs:
        from sglang.srt.speculative.dspark_components.dspark_sps import SpsAdditiveCostTable

        live = attach(ours, artifact())
        policy = live.policy
        assert policy is not None
        theirs._budget_planner.sps_table = SpsAdditiveCostTable.from_json(sps_json(BELIEF))
        geometry = step_hooks.geometry(ours)
        upstream = type(theirs._budget_planner).compute_budget
        upstream = getattr(upstream, "__wrapped__", upstream)
        for requests in REQUESTS:
            arguments = _arguments(requests)
            now = batch(requests)

            def decide(now: Any = now, arguments: Any = arguments) -> None:
                step = live.begin_step(now, geometry)
                with step_hooks.running(ours, step):
                    step_hooks.compute_budget(upstream, ours._budget_planner, **arguments)
                policy.agree(step, False)

            def original(arguments: Any = arguments) -> None:
                upstream(theirs._budget_planner, **arguments)

            ours_us, upstream_us = _medians_us((decide, original), rounds)
            times[str(requests)] = {
                "ours_us": round(ours_us, 2),
                "upstream_us": round(upstream_us, 2),
                "ratio": round(ours_us / upstream_us, 4),
                "recorder_us": round(_recorder_us(live, geometry, requests, rounds), 2),
            } | _tpots(live, geometry, requests)
    return times


def _recorder_us(live: LiveServer, geometry: Geometry, requests: int, rounds: int) -> float:
    now = batch(requests)
    recorder = Recorder(folder="")
    confidence = _arguments(requests)["confidence"]
    lens = torch.full((requests,), 3, dtype=torch.int32)

    def plain() -> None:
        live.begin_step(now, geometry)

    def recorded() -> None:
        live.recorders = [recorder]
        step = live.begin_step(now, geometry)
        step.drafted, step.confidence = True, confidence
        live.end_step(step, lens, lens)
        live.recorders = []
        if len(recorder.waiting) > 1000:
            recorder.waiting.clear()  # A file's worth; another thread writes it.

    plain_us, recorded_us = _medians_us((plain, recorded), rounds)
    return recorded_us - plain_us


def _tpots(live: LiveServer, geometry: Geometry, requests: int) -> dict[str, float]:
    """Medians of interleaved runs, as others may use the machine."""
    runs = [[_tpot_p99_ms(live, geometry, requests, record) for record in (False, True)] for _ in range(REPEATS)]
    plain, recorded = (median(column) for column in zip(*runs, strict=True))
    return {"tpot_p99_ms": round(plain, 4), "recorded_tpot_p99_ms": round(recorded, 4)}


def _tpot_p99_ms(live: LiveServer, geometry: Geometry, requests: int, record: bool) -> float:
    """Over answers of ``ANSWER_STEPS`` steps of ``TOKENS`` tokens, one of which ends with every step."""
    now = batch(requests)
    confidence = _arguments(requests)["confidence"]
    lens = torch.full((requests,), TOKENS, dtype=torch.int32)
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder)

        def write() -> None:
            while not ended.wait(1.0):
                recorder.write()
            recorder.write(last=True)

        writer = threading.Thread(target=write)
        live.recorders = [recorder] if record else []
        writer.start()
        ends_s = np.zeros(STEPS + 1)
        ends_s[0] = time.perf_counter()
        for i in range(STEPS):
            step = live.begin_step(now, geometry)
            time.sleep(STEP_S)
            step.drafted, step.confidence = True, confidence
            live.end_step(step, lens, lens)
            ends_s[i + 1] = time.perf_counter()
        ended.set()
        writer.join()
        live.recorders = []
    answers_s = ends_s[ANSWER_STEPS:] - ends_s[:-ANSWER_STEPS]
    return float(np.quantile(answers_s, 0.99)) / (ANSWER_STEPS * TOKENS) * 1e3


def _arguments(requests: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(requests)
    ones = torch.ones(requests, dtype=torch.int64)
    return {
        "confidence": torch.from_numpy(draw.beta(4, 1.5, (requests, GAMMA)).astype(np.float32)),
        "generation": ones,
        "current_generation": ones,
        "req_pool_indices_cpu": torch.arange(1, requests + 1),
    }


def _medians_us(calls: Sequence[Callable[[], None]], rounds: int, block: int = 10) -> list[float]:
    """Medians of interleaved blocks of calls, so that a busy machine slows them alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds // block + 2):
        for call, kept in zip(calls, times, strict=True):
            started = time.perf_counter()
            for _ in range(block):
                call()
            if turn >= 2:
                kept.append((time.perf_counter() - started) * 1e6 / block)
    return [median(kept) for kept in times]
