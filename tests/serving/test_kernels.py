"""Which kernels a server takes: what was asked for, what a bench has shown, what a start-up check found."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dspark_kernels import bench, results, selfcheck, targets
from dspark_kernels.heads import MarkovHead
from sglang_dspark.errors import InputError
from sglang_dspark.serving import kernels, launch, settings

STAGES = frozenset(selfcheck.STAGES)
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back whatever a test leaves in the environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(settings.VARIABLE, None)


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a bench's result is looked for, on a GPU of this name."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Imaginary")
    monkeypatch.setenv(results.VARIABLE, str(tmp_path / "deep" / "kernels.json"))
    return tmp_path / "deep" / "kernels.json"


@pytest.fixture
def proposer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A drafter with a head that is covered, on a GPU whose kernels are what their references are."""
    head = MarkovHead("vanilla", torch.zeros(64, 16), torch.zeros(64, 16))
    monkeypatch.setattr(kernels, "made_head", lambda markov_head: head)
    monkeypatch.setattr(kernels, "launches", lambda tensor: True)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)
    monkeypatch.setattr(targets, "covering", lambda device: targets.TARGETS["sm_90"])
    monkeypatch.setattr(selfcheck, "differing", lambda device, dtype: {})
    return SimpleNamespace(
        draft_model=SimpleNamespace(markov_head=None), draft_model_runner=SimpleNamespace(device="cuda")
    )


def test_auto_comes_with_a_policy_and_nothing_comes_with_nothing() -> None:
    assert settings.kernels() is None
    settings.put("policy", "/a/policy.json")
    assert settings.kernels() == "auto"
    settings.put("kernels", "ours")
    assert settings.kernels() == "ours"


def test_kernels_need_no_policy() -> None:
    settings.put("kernels", "ours")
    assert settings.current() is None and settings.kernels() == "ours"


def test_an_unknown_choice_is_refused() -> None:
    settings.put("kernels", "fastest")
    with pytest.raises(
        InputError, match="--speculative-dspark-kernels: 'fastest' is not valid; use auto, ours, upstream"
    ):
        settings.kernels()


def test_ours_on_another_algorithm_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    settings.put("kernels", "ours")
    with pytest.raises(SystemExit):
        launch.resolve(SimpleNamespace(speculative_algorithm="EAGLE3"), lambda args: None)
    assert "--speculative-dspark-kernels: ours are DSPARK's, not EAGLE3's" in capsys.readouterr().err


def test_auto_takes_what_a_bench_has_shown_to_win_on_this_gpu(result: Path, proposer: Any) -> None:
    said = kernels._choose(proposer, "auto")
    assert isinstance(said, str) and "no bench has shown" in said and str(result) in said
    assert results.write(GPU, {"draft": True, "confidence": False, "lengths": True}, []) == result
    stages, _ = kernels._choose(proposer, "auto")
    assert stages == {"draft", "lengths"}


def test_a_result_of_another_gpu_or_triton_or_no_result_at_all_wins_nothing(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.write(GPU, {"draft": True}, [])
    assert results.wins(GPU) == {"draft"} and results.wins(torch.device("cpu")) == frozenset()
    found = json.loads(result.read_text())
    for broken in ("", "[]", json.dumps(found | {"format": 2})):
        result.write_text(broken)
        assert results.wins(GPU) == frozenset()
    results.write(GPU, {"accept": True}, [])
    assert results.wins(GPU) == {"accept"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Other")
    assert results.wins(GPU) == frozenset()
    results.write(GPU, {"draft": True}, [])
    assert set(json.loads(result.read_text())["results"]) == {
        f"{name}, triton {results.triton.__version__}" for name in ("NVIDIA Imaginary", "NVIDIA Other")
    }


def test_a_stage_that_differs_is_left_to_sglang_with_a_line(
    proposer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selfcheck, "differing", lambda device, dtype: {"draft": "draft: drafts other tokens"})
    with caplog.at_level(logging.WARNING):
        stages, _ = kernels._choose(proposer, "ours")
    assert stages == STAGES - {"draft"} and "draft: drafts other tokens" in caplog.text
    monkeypatch.setattr(selfcheck, "differing", lambda device, dtype: dict.fromkeys(STAGES, "broken"))
    assert kernels._choose(proposer, "ours") == "none passed the start-up check"


def test_a_gpu_or_a_head_that_is_not_covered_is_told(proposer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Old")
    monkeypatch.setattr(targets, "covering", lambda device: None)
    assert kernels._choose(proposer, "ours") == "NVIDIA Old is no target of ours (sm_80, sm_90, sm_100, gfx942)"


def test_a_head_of_another_kind_is_told() -> None:
    assert kernels.made_head(SimpleNamespace()) == "a head of type SimpleNamespace is not covered"


def test_the_check_at_start_finds_a_stage_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert selfcheck.differing(cpu, torch.float32) == {}
    true = selfcheck.draft.draft_block

    def other(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        found.tokens[0, 0] += 1
        return found

    monkeypatch.setattr(selfcheck.draft, "draft_block", other)
    monkeypatch.setattr(selfcheck.confidence, "confidence_block", lambda *given: 1 / 0)
    assert selfcheck.differing(cpu, torch.float32) == {
        "draft": "draft: drafts other tokens",
        "confidence": "confidence: ZeroDivisionError: division by zero",
    }


def test_the_bench_without_a_gpu_goes_as_far_as_a_launch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "TARGETS", {"sm_90": targets.TARGETS["sm_90"]})
    assert bench.main(["--vocab", "5000"]) == 2
    told = capsys.readouterr()
    assert (
        "draft: reference runs\nconfidence: reference runs\nlengths: reference runs\naccept: reference runs" in told.out
    )
    assert "sm_90: 10 kernels compiled for 64 requests, 0 spill" in told.out
    assert "nothing was launched and nothing timed" in told.err
