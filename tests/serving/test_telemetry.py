"""Published counters equal the steps served, each counted once."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_dspark.policy import Budget, Load
from sglang_dspark.serving.classes import Classes
from sglang_dspark.serving.steps import Mode, StepResult
from sglang_dspark.serving.telemetry import Telemetry

GAMMA = 5
LABELS = {"model_name": "m", "tp_rank": "0"}


@pytest.fixture
def registry(monkeypatch) -> Any:
    """A registry of this test's own, in place of the process's."""
    import prometheus_client
    from prometheus_client import CollectorRegistry, metrics

    fresh = CollectorRegistry()
    for name in ("Counter", "Gauge"):
        kind = getattr(metrics, name)
        monkeypatch.setattr(prometheus_client, name, lambda *a, kind=kind, **k: kind(*a, registry=fresh, **k))
    return fresh


def in_force(version: int, *names: str) -> Any:
    return SimpleNamespace(
        version=version, artifact=SimpleNamespace(classes=names), classes=Classes(names, (2.0,) * len(names), (b"key",))
    )


def make() -> tuple[Telemetry, Any]:
    policy = SimpleNamespace(mode=Mode.ON, in_force=in_force(1, "chat", "batch"))
    guard = SimpleNamespace(falls=0, rests=0, acceptance=0.9, step_time=1.0)
    watcher = SimpleNamespace(reloads=0, refusals=0)
    return Telemetry(policy, guard, watcher, LABELS), SimpleNamespace(policy=policy, guard=guard, watcher=watcher)


def random_step(draw: np.random.Generator, now: Any) -> tuple[Any, StepResult]:
    n = int(draw.integers(1, 9))
    drafted = bool(draw.random() < 0.7)
    mode = Mode(draw.integers(0, 3))
    verified = draw.integers(0, GAMMA + 1, n).astype(np.int32) * drafted
    step = SimpleNamespace(
        in_force=now,
        gamma=GAMMA,
        mode=mode,
        steers=mode is Mode.ON,
        load=Load(np.ones(n, np.int64), draw.integers(0, 2, n)),
        drafted=drafted,
        budget=Budget(int(draw.integers(1, 99)), int(draw.integers(0, 3)), drafted),
        upstream_cap=int(draw.integers(0, 3)),
    )
    accepted = np.minimum(verified, draw.integers(0, GAMMA + 1, n)).astype(np.int32)
    return step, StepResult(verified, accepted, draw.random((n, GAMMA), np.float32) if drafted else None, 0.0, 0.1, 1)


def by_hand(steps: list[tuple[Any, StepResult]]) -> Counter:
    """Every counter, a request and a position at a time."""
    total: Counter = Counter()
    for step, outcome in steps:
        total["steps", step.mode.name.lower()] += 1
        total["drafted_tokens" if step.drafted else "resting_steps",] += (
            GAMMA * len(outcome.verified) if step.drafted else 1
        )
        total["shadow_disagreements",] += step.mode is Mode.SHADOW and step.upstream_cap != step.budget.cap
        for r, (v, a) in enumerate(zip(outcome.verified.tolist(), outcome.accepted.tolist(), strict=True)):
            name = step.in_force.artifact.classes[step.load.slo_class[r]]
            total["verified_tokens",] += v
            total["accepted_tokens",] += a
            total["verify_length", str(v)] += 1
            total["accepted_length", str(a + 1)] += 1
            total["class_rounds", name] += 1
            total["class_verified_tokens", name] += v
            total["class_tokens", name] += a + 1
            for j in range(v):
                if step.drafted and j <= a:  # The target judged it: every draft before it was accepted.
                    total["position_judged", str(j + 1)] += 1
                    total["position_accepted", str(j + 1)] += j < a
                    total["position_confidence", str(j + 1)] += float(outcome.confidence[r, j])
    return Counter({key: value for key, value in total.items() if value})


def published(registry: Any) -> dict[Any, float]:
    found = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                labels = dict(sample.labels)
                assert {name: labels.pop(name) for name in LABELS} == LABELS
                found[(sample.name.removeprefix("sglang:dspark_").removesuffix("_total"), *labels.values())] = (
                    sample.value
                )
    return {key: value for key, value in found.items() if value and not key[0].startswith(("policy", "class_ref"))}


def gauge(registry: Any, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"sglang:dspark_{name}", LABELS | labels)


def test_counters_are_what_was_served_however_often_it_is_published(registry) -> None:
    draw = np.random.default_rng(0)
    telemetry, around = make()
    steps = []
    for i in range(60):
        if i == 30:  # The next policy lists its classes otherwise.
            around.policy.in_force = in_force(2, "batch", "summary")
        steps.append(random_step(draw, around.policy.in_force))
        telemetry(*steps[-1])
        if i % 4 == 3:
            telemetry.publish()
            telemetry.publish()
    assert published(registry) == pytest.approx(by_hand(steps))
    assert gauge(registry, "policy_version") == 2


def test_reloads_refusals_and_falls(registry) -> None:
    telemetry, around = make()
    names = ("policy_reloads_total", "policy_refusals_total", "policy_fallbacks_total")
    for expected in ((1, 0, 0), (1, 2, 0), (5, 2, 1)):
        around.watcher.reloads, around.watcher.refusals, around.guard.falls = expected
        telemetry.publish()
        telemetry.publish()
        assert tuple(gauge(registry, name) or 0 for name in names) == expected


def test_refused_classes_are_counted_across_policies(registry) -> None:
    telemetry, around = make()
    around.policy.in_force.classes.refused = 5
    telemetry.publish()
    around.policy.in_force.classes.refused = 6
    around.policy.in_force = in_force(2, "chat")
    around.policy.in_force.classes.refused = 2
    telemetry.publish()
    telemetry.publish()
    assert gauge(registry, "class_refusals_total") == 8


def test_tier_is_the_policys_and_calibration_is_promise_less_outcome(registry) -> None:
    telemetry, around = make()
    step, _ = random_step(np.random.default_rng(0), around.policy.in_force)
    step.load = Load(np.ones(4, np.int64), np.zeros(4, np.int64))
    confidence = np.full((4, GAMMA), 0.75, np.float32)
    step.steers, step.mode, step.budget = True, Mode.ON, Budget(96, 4, True)
    telemetry(step, StepResult(np.full(4, 1, np.int32), np.array([1, 1, 0, 0], np.int32), confidence, 0.0, 0.1, 1))
    telemetry.publish()
    assert gauge(registry, "verify_tier_tokens") == 96
    assert gauge(registry, "calibration_error", position="1") == pytest.approx(0.25)
    assert gauge(registry, "calibration_error", position="2") is None
    step.steers, step.mode = False, Mode.OFF
    telemetry(step, StepResult(np.full(4, 1, np.int32), np.zeros(4, np.int32), confidence, 0.0, 0.1, 1))
    telemetry.publish()
    assert gauge(registry, "verify_tier_tokens") == 0


def test_what_the_recorder_lost_is_told(registry) -> None:
    _, parts = make()
    recorder = SimpleNamespace(written=0, lost=0)
    for kind in list(registry._collector_to_names):
        registry.unregister(kind)
    telemetry = Telemetry(parts.policy, parts.guard, parts.watcher, LABELS, recorder)
    for written, lost in ((5, 0), (5, 2), (9, 3)):
        recorder.written, recorder.lost = written, lost
        telemetry.publish()
        assert registry.get_sample_value("sglang:dspark_recorded_steps_total", LABELS) == written
        assert (registry.get_sample_value("sglang:dspark_lost_steps_total", LABELS) or 0) == lost
