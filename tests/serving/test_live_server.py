"""A server without a policy to follow, static or without speculation, has its live state: steps timed, recorded and
counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pyarrow.parquet as pq
import pytest
import torch
from prometheus_client import CollectorRegistry, metrics
from sglang.srt import runtime_context

from sglang_dspark.serving import control, step_hooks
from sglang_dspark.serving.evidence.offline import OneRank
from sglang_dspark.serving.settings import Settings
from sglang_dspark.serving.step_schema import STREAM

LABELS = {"model_name": "m"}
GAMMA = 4


class Mode:
    """SGLang's ``ForwardMode`` as the hooks read it."""

    def __init__(self, name: str) -> None:
        self.is_extend = lambda: name == "extend"
        self.is_decode = lambda: name == "decode"
        self.is_idle = lambda: name == "idle"
        self.is_prebuilt = lambda: False


def a_batch(kind: str, requests: int) -> Any:
    return SimpleNamespace(
        forward_mode=Mode(kind),
        reqs=[SimpleNamespace(rid=f"r{i}") for i in range(requests)],
        seq_lens_cpu=torch.full((requests,), 50),
        after_idle_gap=False,
        extend_num_tokens=7 * requests,
        prefix_lens=[3] * requests,
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    fresh = CollectorRegistry()
    for name in ("Counter", "Gauge"):
        kind = getattr(metrics, name)
        monkeypatch.setattr(prometheus_client, name, lambda *a, kind=kind, **k: kind(*a, registry=fresh, **k))
    return fresh


def a_scheduler(draft_worker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    chosen = Settings(policy="policy.json", record=str(folder))
    monkeypatch.setattr(step_hooks.settings, "current", lambda: chosen)
    # As on a real server, the operator's flags do not have the block; the resolved ones do.
    monkeypatch.setattr(runtime_context, "get_spec", lambda: SimpleNamespace(speculative_num_draft_tokens=GAMMA + 1))
    scheduler = SimpleNamespace(
        draft_worker=draft_worker,
        server_args=SimpleNamespace(device="cpu", speculative_num_draft_tokens=None),
        tp_group=OneRank(),
        waiting_queue=["one", "two"],
        metrics_collector=SimpleNamespace(labels=LABELS),
    )
    step_hooks.attach_scheduler(None, scheduler)
    return scheduler


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_steps_are_recorded_and_counted(
    static: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    # A static server's planner has no budget to follow, so no policy is bound to it.
    worker = SimpleNamespace(_verify_planner=SimpleNamespace(_budget_planner=None)) if static else None
    scheduler = a_scheduler(worker, tmp_path, monkeypatch)
    live, background = scheduler.dspark, scheduler.dspark_observers.background
    assert live.policy is None and live.leads and live.gamma == (GAMMA if static else 0)
    lens = torch.tensor([1, 5, 3], dtype=torch.int32) if static else None

    def forward(scheduler: Any, batch: Any) -> Any:
        if static and batch.forward_mode.is_decode():
            proposal = SimpleNamespace(confidence=torch.zeros(3, GAMMA))
            assert step_hooks.propose(lambda *a, **k: proposal, SimpleNamespace(), batch=batch) is proposal
        return SimpleNamespace(copy_done=None, accept_lens=lens, cap_lens=None)

    for kind in ("extend", "decode", "decode", "idle", "decode"):
        batch = a_batch(kind, 3)
        result = step_hooks.run_batch(forward, scheduler, batch)
        assert "dspark_step" not in batch.__dict__
        step_hooks.process_result(None, batch, result)
    background.stop()
    background.join(10.0)
    for chore in background.chores:
        chore()
    live.recorders[0].write(last=True)
    (file,) = tmp_path.glob("*.parquet")
    table = pq.read_table(file)
    assert table.schema.equals(STREAM)
    rows = table.to_pylist()
    assert [row["kind"] for row in rows] == ["prefill", "decode", "decode", "decode"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(row["step_s"] is not None for row in rows[1:])
    prefill, step = rows[0], rows[-1]
    assert (prefill["prefill_tokens"], prefill["context_tokens"], prefill["queued"]) == (21, 9, 2)
    assert (step["mode"], step["policy_version"], step["budget"], step["policy_budget"]) == ("off", 0, None, None)
    assert (step["requests"], step["queued"], step["context"]) == (3, 2, [50, 50, 50])
    assert step["accepted_length"] == ([1, 5, 3] if static else [1, 1, 1])
    assert step["verify_length"] == [GAMMA * static] * 3 and step["drafted_tokens"] == 3 * GAMMA * static
    assert registry.get_sample_value("sglang:dspark_steps_total", LABELS | {"mode": "off"}) == 3
    accepted = registry.get_sample_value("sglang:dspark_accepted_tokens_total", LABELS)
    assert accepted == (3 * 6 if static else None)


def test_only_a_policy_brings_control_keys_and_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    pytest.importorskip("sglang")
    scheduler = a_scheduler(None, tmp_path, monkeypatch)
    scheduler.dspark_observers.background.stop()
    controller, state = SimpleNamespace(scheduler=scheduler), {}
    assert control.update_handlers({"a": 1}, controller) == {"a": 1}
    control.add_state(None, controller, state)
    assert state == {}


def test_a_server_that_was_given_no_policy_has_no_live_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_hooks.settings, "current", lambda: None)
    scheduler = SimpleNamespace(draft_worker=None)
    step_hooks.attach_scheduler(None, scheduler)
    batch = a_batch("decode", 2)
    result = step_hooks.run_batch(lambda *a: SimpleNamespace(), scheduler, batch)
    step_hooks.process_result(None, batch, result)
    assert "dspark" not in scheduler.__dict__ and result.__dict__ == {}
