"""Starts what looks on: the guard, the metrics, the recorder, and the thread that watches the policy file."""

from __future__ import annotations

import atexit
from typing import Any

from sglang_dspark.serving.guard import Guard
from sglang_dspark.serving.live import LivePolicy
from sglang_dspark.serving.policy_file_watcher import Watcher
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.stream import Stream
from sglang_dspark.serving.telemetry import Telemetry


def start(live: LivePolicy, scheduler: Any) -> None:
    """On the rank that leads its group; the others follow it.

    Args:
        scheduler: SGLang's ``Scheduler``, for the labels of its metrics.
    """
    if not live.agreement.leads:
        return
    asked = live.settings
    watcher = live.watcher = Watcher(live)
    guard = Guard(live, asked.fallback_margin)
    if asked.fallback_margin > 0:
        live.observers.append(guard)
    recorder = None
    if asked.record is not None:
        recorder = Recorder(asked.record)
        live.recorders.append(recorder)
        watcher.chores.append(recorder.write)
        atexit.register(recorder.write, last=True)
    if scheduler.metrics_collector is not None:
        telemetry = Telemetry(live, guard, watcher, scheduler.metrics_collector.labels, recorder)
        live.observers.append(telemetry)
        watcher.chores.append(telemetry.publish)
    live.detailed = scheduler.metrics_collector is not None
    live.stream = Stream(live)
    watcher.start()
