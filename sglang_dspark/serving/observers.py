"""Start the guard, metrics, recorder and file watcher."""

from __future__ import annotations

import atexit
from typing import Any, NamedTuple

from sglang_dspark.serving.background import Background
from sglang_dspark.serving.guard import Guard
from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.policy_file_watcher import Watcher
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.stream import Stream
from sglang_dspark.serving.telemetry import Telemetry


class Observers(NamedTuple):
    """Threads that run beside a scheduler.

    Attributes:
        background: The thread of metrics and records; a :class:`Watcher` where there is a policy.
        stream: Recorded steps for a reader over HTTP.
    """

    background: Background
    stream: Stream


def start(live: LiveServer, scheduler: Any) -> Observers | None:
    """Start the observers on the rank that leads its group; the others follow it and have none.

    Args:
        scheduler: SGLang's ``Scheduler``, for the labels of its metrics.
    """
    if not live.leads:
        return None
    settings, policy = live.settings, live.policy
    guard = watcher = None
    background = Background()
    if policy is not None:
        background = watcher = Watcher(policy)
        guard = Guard(policy, settings.fallback_margin)
        if settings.fallback_margin > 0:
            live.observers.append(guard)
    recorder = None
    if settings.record is not None:
        recorder = Recorder(settings.record)
        live.recorders.append(recorder)
        background.chores.append(recorder.write)
        atexit.register(recorder.write, last=True)
    if scheduler.metrics_collector is not None:
        telemetry = Telemetry(policy, guard, watcher, scheduler.metrics_collector.labels, recorder)
        live.observers.append(telemetry)
        background.chores.append(telemetry.publish)
    live.detailed = scheduler.metrics_collector is not None
    background.start()
    return Observers(background, Stream(live))
