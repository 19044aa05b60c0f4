"""Choice of kernels: by the flag, the bench's results and the start-up check."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dspark_kernels import launch_configs
from dspark_kernels.heads import MarkovHead
from dspark_kernels.startup import bench_results, compile_check, selfcheck
from dspark_kernels.startup.launch_cases import _draft, server_cases
from dspark_kernels.startup.served_shapes import ServedShapes
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Engine, Load, Threshold, compile_rule
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
    monkeypatch.setenv(bench_results.VARIABLE, str(tmp_path / "deep" / "kernels.json"))
    return tmp_path / "deep" / "kernels.json"


@pytest.fixture
def proposer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A drafter with a head that is covered, on a GPU whose kernels are what their references are."""
    head = MarkovHead("vanilla", torch.zeros(64, 16), torch.zeros(64, 16))
    monkeypatch.setattr(kernels, "made_head", lambda markov_head: head)
    monkeypatch.setattr(kernels, "launches", lambda tensor: True)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)
    monkeypatch.setattr(launch_configs, "covering", lambda device: launch_configs.TARGETS["sm_90"])
    monkeypatch.setattr(selfcheck, "differing", lambda device, served: {})
    monkeypatch.setattr(compile_check, "compile_served", lambda target, served, stages: len(stages))
    rated = SimpleNamespace(proj=SimpleNamespace(bias=None), with_markov=True)
    runner = SimpleNamespace(
        device="cuda",
        dtype=torch.bfloat16,
        server_args=SimpleNamespace(max_running_requests=48),
        model_config=SimpleNamespace(hidden_size=64),
    )
    markov_head = SimpleNamespace(step_logits_dtype=lambda dtype: dtype, vocab_shard=None)
    return SimpleNamespace(
        draft_model=SimpleNamespace(
            markov_head=markov_head,
            confidence_head=rated,
            lm_head=SimpleNamespace(num_embeddings_per_partition=64, tp_size=2, shard_indices=SimpleNamespace()),
        ),
        draft_model_runner=runner,
        gamma=7,
        _greedy_draft=False,
        _tp_sync=SimpleNamespace(_tp_group=SimpleNamespace(world_size=2)),
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
    served = kernels._served(proposer, kernels.made_head(None), None)
    assert f"--requests 48 {served.flags()}" in said
    won = {"draft": True, "confidence": False, "lengths": True}
    assert bench_results.write(GPU, served, won, []) == result
    stages, *_ = kernels._choose(proposer, "auto")
    assert stages == {"draft", "lengths"}
    # A bench of another draft, or of fewer requests, says nothing of this one.
    for other in (served._replace(gamma=3), served._replace(w1=torch.float16), served._replace(requests=47)):
        result.unlink()
        bench_results.write(GPU, other, won, [])
        assert isinstance(kernels._choose(proposer, "auto"), str)
    result.unlink()
    bench_results.write(GPU, served._replace(requests=64, bias=True), won, [])
    assert kernels._choose(proposer, "auto")[0] == stages


def test_a_result_of_another_gpu_or_triton_or_no_result_at_all_wins_nothing(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedShapes()
    bench_results.write(GPU, served, {"draft": True}, [])
    assert (
        bench_results.wins(GPU, served) == {"draft"} and bench_results.wins(torch.device("cpu"), served) == frozenset()
    )
    file = json.loads(result.read_text())
    for broken in ("", "[]", json.dumps(file | {"format": 1})):
        result.write_text(broken)
        assert bench_results.wins(GPU, served) == frozenset()
    bench_results.write(GPU, served, {"accept": True}, [])
    assert bench_results.wins(GPU, served) == {"accept"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Other")
    assert bench_results.wins(GPU, served) == frozenset()
    bench_results.write(GPU, served, {"draft": True}, [])
    assert set(json.loads(result.read_text())["results"]) == {
        f"{name}, triton {bench_results.triton.__version__}, {served.flags()}"
        for name in ("NVIDIA Imaginary", "NVIDIA Other")
    }


def test_a_stage_that_differs_is_left_to_sglang_with_a_line(
    proposer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selfcheck, "differing", lambda device, served: {"draft": "draft: drafts other tokens"})
    with caplog.at_level(logging.WARNING):
        stages, *_ = kernels._choose(proposer, "ours")
    assert stages == STAGES - {"draft"} and "draft: drafts other tokens" in caplog.text
    monkeypatch.setattr(selfcheck, "differing", lambda device, served: dict.fromkeys(STAGES, "broken"))
    assert kernels._choose(proposer, "ours") == "none passed the start-up check"


def test_a_gpu_or_a_head_that_is_not_covered_is_told(proposer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Old")
    monkeypatch.setattr(launch_configs, "covering", lambda device: None)
    assert kernels._choose(proposer, "ours") == f"NVIDIA Old is no target of ours ({', '.join(launch_configs.TARGETS)})"


@pytest.mark.parametrize(
    ("start", "end", "ranks", "why"),
    [
        (30, 64, 2, "shard: tokens 30 to 63"),
        (64, 64, 2, "a rank has none of its tokens"),
        (32, 64, 4, "2 ranks share the vocabulary where 4 draft together"),
    ],
)
def test_a_shard_that_is_not_covered_leaves_confidence_and_lengths_ours(
    proposer: Any, caplog: pytest.LogCaptureFixture, start: int, end: int, ranks: int, why: str
) -> None:
    """They do not read ``W2``; one warning names the other stages, the reason and the variable."""
    proposer.draft_model.markov_head.vocab_shard = SimpleNamespace(start=start)
    proposer.draft_model.lm_head.shard_indices.org_vocab_end_index = end
    proposer._tp_sync._tp_group.world_size = ranks
    with caplog.at_level(logging.WARNING):
        stages, *_ = kernels._choose(proposer, "ours")
    assert stages == {"confidence", "lengths"}
    (warning,) = caplog.messages
    assert "accept and draft left to SGLang" in warning and why in warning
    assert "SGLANG_DSPARK_OPT_MARKOV_W2_TP_SHARD=0" in warning


def test_a_head_of_another_kind_is_told() -> None:
    assert kernels.made_head(SimpleNamespace()) == "a head of type SimpleNamespace is not covered"


SMALL = ServedShapes(rank=32, requests=70)


def test_the_check_at_start_finds_a_stage_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert selfcheck.differing(cpu, SMALL) == {}
    true = selfcheck.draft.draft_block

    def other(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        found.tokens[0, 0] += 1
        return found

    monkeypatch.setattr(selfcheck.draft, "draft_block", other)
    monkeypatch.setattr(selfcheck.confidence, "confidence_block", lambda *given: 1 / 0)
    assert selfcheck.differing(cpu, SMALL) == {
        "draft": "draft: drafts other tokens at 1 requests",
        "confidence": "confidence: ZeroDivisionError: division by zero",
    }


@pytest.mark.parametrize(
    ("name", "of", "stage"), [("draft_block", "draft", "draft"), ("accept", "acceptance", "accept")]
)
def test_the_check_at_start_runs_the_tiles_of_large_batches(
    monkeypatch: pytest.MonkeyPatch, name: str, of: str, stage: str
) -> None:
    """A fault of one tile size only, as of another matrix instruction: the first batch that takes it is named."""
    module = getattr(selfcheck, of)
    true = getattr(module, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        return found._replace(tokens=found.tokens + 1) if len(found.tokens) > 32 else found

    monkeypatch.setattr(module, name, broken)
    found = selfcheck.differing(torch.device("cpu"), SMALL)
    assert found.keys() == {stage} and found[stage].endswith("at 33 requests")


@pytest.mark.parametrize("kind", ["gated", "rnn"])
def test_the_check_at_start_runs_the_servers_own_head(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    cpu, served = torch.device("cpu"), ServedShapes(kind=kind, rank=32, requests=5)
    assert selfcheck.differing(cpu, served) == {}
    true = selfcheck.draft.draft_block

    def other(*arguments: Any, **named: Any) -> Any:
        found = true(*arguments, **named)
        return found._replace(latents=found.latents * 1.5)

    monkeypatch.setattr(selfcheck.draft, "draft_block", other)
    assert "latents off" in selfcheck.differing(cpu, served)["draft"]


def test_row_counts_of_the_check_are_the_ends_of_every_configuration() -> None:
    with launch_configs.using("sm_90"):
        counts = selfcheck.row_counts(GPU, ServedShapes(requests=300))
        assert counts == [1, 5, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 300]
        assert selfcheck.row_counts(GPU, ServedShapes(requests=48)) == [1, 5, 16, 17, 32, 33, 48]


POLICIES = (
    Threshold(running=(1, 16), theta=(0.05, 0.6)),
    Threshold(running=(1, 16), theta=(0.05, 0.6), weight=(1.0, 2.0), price_per_token=1e-4),
)


class OnMeta:
    """A drafter on tensors without storage, whose strides and offsets are those of a server's tensors."""

    def __init__(self, vocab: int, padded: int, dtype: torch.dtype, rank: tuple[int, int], greedy: bool) -> None:
        """
        Args:
            padded: Tokens of the language head, a multiple of 64 as SGLang pads them.
            rank: Of this rank, among those that share the vocabulary.
        """
        number, ranks = rank
        self.dtype, self.gamma, self.greedy, self.vocab, self.padded = dtype, 3, greedy, vocab, padded
        per_rank = padded // ranks
        gather = SimpleNamespace(
            gather_stacked=lambda values: values.new_empty((ranks, values.shape[1])),
        )
        self.head = MarkovHead("vanilla", self.empty(vocab, 32), self.empty(vocab, 32))
        self.markov_head = SimpleNamespace(
            step_logits_dtype=lambda dtype: dtype,
            vocab_shard=None if ranks == 1 else SimpleNamespace(start=number * per_rank, gather=gather),
        )
        self.rated = SimpleNamespace(
            proj=SimpleNamespace(weight=torch.empty((1, 96), device="meta"), bias=torch.empty(1, device="meta")),
            with_markov=True,
            sts_temperatures=torch.ones((), device="meta"),
        )
        self.columns = per_rank if ranks > 1 else padded
        lm_head = SimpleNamespace(
            num_embeddings_per_partition=per_rank,
            tp_size=ranks,
            shard_indices=SimpleNamespace(org_vocab_end_index=min((number + 1) * per_rank, vocab)),
        )
        self.proposer = SimpleNamespace(
            draft_model=SimpleNamespace(markov_head=self.markov_head, confidence_head=self.rated, lm_head=lm_head),
            draft_model_runner=SimpleNamespace(
                server_args=SimpleNamespace(speculative_use_block_verification=False, max_running_requests=20),
                device=torch.device("meta"),
                dtype=dtype,
                model_config=SimpleNamespace(hidden_size=64),
            ),
            noise=SimpleNamespace(key=1 << 40, offset=torch.zeros(1)),
            gamma=self.gamma,
            _greedy_draft=greedy,
            _tp_sync=SimpleNamespace(_tp_group=SimpleNamespace(world_size=ranks)),
        )

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def round(self, rows: int, graph: bool, rule: Any) -> None:
        """Drafts, rates, schedules and accepts ``rows`` blocks through the hooks."""
        shard = self.markov_head.vocab_shard
        # ``gather_and_crop_vocab``; a shard is not cut.
        base = self.empty(rows * 3, self.columns)[:, : self.vocab if shard is None else self.columns]
        anchors = torch.zeros((rows, 4), dtype=torch.int64, device="meta")[:, 0]
        ones = torch.ones(rows, device="meta")
        refuse = functools.partial(pytest.fail, "SGLang's")
        drafts, kept = kernels.draft_markov_block(
            lambda **given: refuse(),
            markov_head=self.markov_head,
            base_logits=base.view(rows, 3, -1),
            anchor_tokens=anchors,
            draft_hidden=None,
            step_temperatures=ones,
            noise=self.proposer.noise,
            tp_sync=SimpleNamespace(sync=lambda site, tokens: tokens),
            logits_out=self.empty(20, 3, self.vocab)[:rows] if graph and not self.greedy else None,
            greedy_draft=self.greedy,
        )
        rated, _ = kernels.predict(
            lambda *given, **named: refuse(),
            self.rated,
            self.empty(rows * 3, 64),
            anchor_tokens=anchors,
            draft_tokens=drafts,
            markov_head=self.markov_head,
        )
        kernels.schedule(
            lambda *given, **named: refuse(),
            None,
            confidence=rated,
            budget=rows,
            cfg=SimpleNamespace(min_verify_len=1, resolved_max_verify_len=lambda: 4, survival_eps=1e-6),
        )
        kernels.policy_lengths(rule, rated, Load(np.full(rows, 100), np.zeros(rows, np.int64)), rows)
        # ``LogitsProcessor``: float32 logits are cut, others are copied, and so are those of graphs.
        target = torch.empty((rows * 4, self.padded), dtype=self.dtype, device="meta")[:, : self.vocab].float()
        if graph:
            target = torch.empty((rows * 4, self.vocab), device="meta")
        kernels.accept_draft_tokens(
            lambda **given: refuse(),
            candidates=torch.zeros((rows, 4), dtype=torch.int64, device="meta"),
            target_logits=target,
            draft_block=SimpleNamespace(
                greedy_draft=self.greedy,
                corrected_logits=kept,
                greedy_mask=ones > 1,
                temperatures=ones,
                draft_tokens=drafts,
            ),
            sampling_info=SimpleNamespace(
                is_all_greedy=False, temperatures=ones, need_top_k_sampling=False, need_top_p_sampling=False
            ),
            gamma=3,
            verify_num_draft_tokens=4,
        )


@pytest.mark.parametrize(
    ("vocab", "padded", "dtype", "rank", "greedy"),
    [
        (1024, 1024, torch.bfloat16, (0, 1), False),
        (1003, 1024, torch.bfloat16, (0, 1), False),
        (1003, 1024, torch.float32, (0, 1), False),
        (1003, 1024, torch.bfloat16, (0, 1), True),
        (1003, 1024, torch.bfloat16, (2, 4), False),
        (1003, 1024, torch.float32, (3, 4), True),
    ],
    ids=["even", "odd", "odd float32", "odd greedy", "shard", "last shard greedy"],
)
def test_no_kernel_is_left_to_compile_when_the_server_is_ready(
    monkeypatch: pytest.MonkeyPatch, vocab: int, padded: int, dtype: torch.dtype, rank: tuple[int, int], greedy: bool
) -> None:
    """Every batch through the hooks compiles to what was compiled at the start, wherever its tensors lie."""
    drafter = OnMeta(vocab, padded, dtype, rank, greedy)
    shard = kernels.made_shard(drafter.proposer)
    assert not isinstance(shard, str)
    ours = kernels.Installed(drafter.proposer, STAGES, drafter.head, shard)
    monkeypatch.setattr(kernels, "_installed", ours)
    target = launch_configs.TARGETS["sm_90"]
    with compile_check.counting_kernels(target) as at_start:
        for call in server_cases(kernels._served(drafter.proposer, drafter.head, shard), STAGES):
            call()
    with compile_check.counting_kernels(target) as later:
        for policy, graph in itertools.product(POLICIES, (True, False)):
            rule = compile_rule(policy, Engine(3, np.arange(4, 88, 4), 20))
            for rows in range(1, 21):
                drafter.round(rows, graph, rule)
    assert len(later) > 5 and later <= at_start


def test_a_gpu_takes_the_launch_table_that_fits_its_shared_memory() -> None:
    """On 8.6 and 8.9 a program has 99 KiB, on 8.0 and 8.7 163: the table of 8.0 does not fit the former."""

    def name(major: int, minor: int, shared_kib: int) -> str | None:
        target = launch_configs.for_capability(major, minor, shared_kib * 1024)
        return None if target is None else target.name

    assert [name(8, 0, 163), name(8, 6, 99), name(8, 7, 163), name(8, 9, 99)] == ["sm_80", "sm_86", "sm_86", "sm_89"]
    assert [name(9, 0, 227), name(10, 0, 227), name(10, 3, 227)] == ["sm_90", "sm_100", "sm_100"]
    assert [name(12, 0, 99), name(12, 1, 99)] == ["sm_120", "sm_120"]
    assert [name(7, 5, 64), name(8, 0, 99), name(11, 0, 227)] == [None, None, None]


@pytest.mark.parametrize("name", ["sm_86", "sm_89", "sm_120"])
def test_launches_of_every_batch_fit_a_small_shared_memory(name: str) -> None:
    """As DeepSeek-V4 drafts: float32 logits, of which most must lie in shared memory."""
    target = launch_configs.TARGETS[name]
    served = ServedShapes(gamma=1, logits=torch.float32, kept=torch.float32)
    calls = [_draft(served, scan.block_rows, True, True) for scan in target.draft]
    found = [one for one in compile_check.compile_calls(name, calls) if one.kernel == "markov_scan"]
    assert len(found) == len(target.draft)
    assert all(one.shared_bytes <= target.shared_bytes and one.spill_bytes == 0 for one in found)
