"""A tiny fused DeepSeek-V4 checkpoint: target and draft in one folder, and no field that speaks of a confidence head.

Its attention has CUDA kernels only, and SGLang builds no V4 layer on a CPU (``get_rope_cpu`` asks for scaled positions
in layers that have none). So its launch is SGLang's own, for a GPU and for the CPU; its Markov and confidence heads are
SGLang's, with the checkpoint's weights by SGLang's names; and they draft, are scheduled and are accepted by SGLang's
functions, with a table for the target.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_dspark.policy import Argmax, NoDraft, Policy, Threshold
from sglang_dspark.policy.artifact import save
from sglang_dspark.serving import draft_checkpoint, settings, step_hooks
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.evidence.offline import OneRank
from tests.serving import answers
from tests.serving.answers import Question
from tests.serving.configs import V4
from tests.serving.harness import Driver

GAMMA = V4["dspark_block_size"]
VOCAB = V4["vocab_size"]
RANK = V4["dspark_markov_rank"]
HIDDEN = V4["hidden_size"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v4")
    (folder / "config.json").write_text(json.dumps(V4))
    torch.manual_seed(3)
    save_file(
        {
            "embed.weight": torch.randn(VOCAB, 4),
            "mtp.0.markov_head.embed.weight": torch.randn(VOCAB, RANK),
            "mtp.0.markov_head.head.weight": torch.randn(VOCAB, RANK),
            "mtp.0.confidence_head.proj.weight": torch.randn(1, HIDDEN + RANK) * 0.1,
        },
        str(folder / "model.safetensors"),
    )
    return folder


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A policy file that this process is asked to follow."""
    path = tmp_path / "policy.json"
    monkeypatch.setenv(settings.VARIABLE, json.dumps({"policy": str(path)}))
    yield path


def test_its_launch_is_accepted_with_a_policy(checkpoint: Path, policy: Path) -> None:
    save(offline.artifact(gamma=GAMMA), policy)
    # No draft path: SGLang resolves it to the target's own.
    words = ("--model-path", str(checkpoint), "--skip-tokenizer-init", "--speculative-algorithm", "DSPARK")
    asked = ("--speculative-dspark-policy", str(policy))
    gpu, cpu, longer = answers.ask(
        [
            Question((*words, "--device", "cuda", *asked), "b200"),
            Question((*words, "--device", "cpu", *asked), None),
            Question((*words, "--device", "cuda", *asked, "--speculative-dspark-block-size", "7"), "b200"),
        ]
    )
    assert (gpu.get("mode"), gpu.get("backend")) == ("compact", "dsv4"), gpu
    # Its attention has no form for a CPU.
    assert cpu["error"].startswith("--attention-backend: dsv4 cannot serve here: the CPU engine has torch_native only")
    # Gamma is the checkpoint's unless the operator gives another.
    assert "block of 7" in longer["error"]


def test_its_confidence_head_is_seen_before_weights_load(checkpoint: Path, tmp_path: Path) -> None:
    def cfg(path: Path) -> Any:
        return SimpleNamespace(speculative_draft_model_path=str(path))

    assert draft_checkpoint.headless(cfg(checkpoint)) == ()
    (tmp_path / "config.json").write_text(json.dumps(V4))
    save_file({"mtp.0.markov_head.embed.weight": torch.zeros(2, 2)}, str(tmp_path / "model.safetensors"))
    assert draft_checkpoint.headless(cfg(tmp_path))[0].what == str(tmp_path)


class Heads:
    """SGLang's heads of a V4 draft, with a checkpoint's weights."""

    def __init__(self, checkpoint: Path) -> None:
        from sglang.srt.models import deepseek_v4_dspark as upstream
        from sglang.srt.speculative.dspark_components.dspark_config import parse_dspark_draft_config
        from sglang.srt.utils.hf_transformers_utils import get_config

        config = get_config(str(checkpoint), trust_remote_code=False)
        parsed = parse_dspark_draft_config(draft_hf_config=config)
        assert (parsed.gamma, parsed.markov_rank) == (GAMMA, RANK)
        self.confidence = upstream.build_dspark_v4_confidence_head(config=config, markov_rank=parsed.markov_rank)
        self.markov = upstream.DSparkV4MarkovHead(vocab_size=VOCAB, markov_rank=parsed.markov_rank)
        owner = SimpleNamespace(confidence_head=self.confidence)
        heads = {"markov_head": self.markov, "confidence_head": self.confidence}
        for name, weight in load_file(str(checkpoint / "model.safetensors")).items():
            mapped = upstream.DeepseekV4ForCausalLMDSpark._remap_dspark_weight_name(owner, name)
            if mapped is None:
                continue
            head, _, rest = mapped.partition(".")
            held = heads[head].get_parameter(rest)
            with torch.no_grad():
                held[: len(weight)].copy_(weight)  # Embeddings are padded.

    def draft(self, base: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        from sglang.srt.runtime_context import get_parallel
        from sglang.srt.speculative.dspark_components.dspark_draft import DraftNoise, draft_markov_block

        with torch.no_grad(), get_parallel().override(tp_group=OneRank()):
            tokens, _ = draft_markov_block(
                markov_head=self.markov,
                base_logits=base,
                anchor_tokens=anchors,
                draft_hidden=None,
                step_temperatures=torch.zeros(len(anchors)),
                noise=DraftNoise(key=1, offset=torch.zeros(1, dtype=torch.int64)),
                tp_sync=OneRank(),
                greedy_draft=True,
            )
        return tokens  # type: ignore[no-any-return]

    def rate(self, hidden: torch.Tensor, anchors: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
        from sglang.srt.runtime_context import get_parallel

        with torch.no_grad(), get_parallel().override(tp_group=OneRank()):
            found, _ = self.confidence.predict(
                hidden, anchor_tokens=anchors, draft_tokens=drafts, markov_head=self.markov
            )
        return found  # type: ignore[no-any-return]


POLICIES: tuple[Policy, ...] = (
    Threshold(running=(1,), theta=(0.3,)),
    Threshold(running=(1,), theta=(0.9,), max_length=3),
    Argmax(),
    NoDraft(),
)


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no-overlap"])
@pytest.mark.parametrize("chosen", POLICIES, ids=str)
def test_it_is_attached_to_and_decodes_as_its_target_would(
    hooked: None, checkpoint: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, chosen: Policy, overlap: bool
) -> None:
    from sglang.kernels.ops.speculative.dspark.dspark_accept import AcceptGreedy

    monkeypatch.setenv("SGLANG_RAGGED_VERIFY_MODE", "compact")
    temperatures = tuple(1.0 + 0.25 * k for k in range(GAMMA))
    save(offline.artifact(chosen, GAMMA, sts_temperatures=temperatures), policy)
    heads = Heads(checkpoint)
    draw = torch.Generator().manual_seed(11)
    rows, rounds = 6, 12
    successor = torch.randint(0, VOCAB, (VOCAB,), generator=draw)  # The target: what it says after each token.
    said = torch.nn.functional.one_hot(successor, VOCAB).float()
    with offline.planner(
        gamma=GAMMA,
        slots=64,
        tiers=[6, 12, 24, 36],
        max_requests=rows,
        overlap=overlap,
        confidence_head=heads.confidence,
    ) as planner:
        step_hooks.attach(None, planner)
        live = step_hooks.of(SimpleNamespace(_verify_planner=planner))
        assert live is not None and live.gamma == GAMMA and os.environ["SGLANG_RAGGED_VERIFY_MODE"] == "compact"
        assert heads.confidence.sts_temperatures.tolist() == pytest.approx(temperatures)
        driver = Driver(planner, overlap)
        slots = np.arange(1, rows + 1)
        anchors = torch.randint(0, VOCAB, (rows,), generator=draw)
        texts = [[int(token)] for token in anchors]
        relayed, lengths = None, set()
        for _ in range(rounds):
            # What a backbone would say: mostly what the target says after the anchor, and then after that.
            base = torch.randn(rows, GAMMA, VOCAB, generator=draw)
            after = anchors
            for k in range(GAMMA):
                after = successor[after]
                base[torch.arange(rows), k, after] += 60.0 * (torch.rand(rows, generator=draw) < 0.7)
            hidden = torch.randn(rows, GAMMA, HIDDEN, generator=draw)
            drafts = heads.draft(base, anchors)
            confidence = heads.rate(hidden, anchors, drafts).numpy()
            made = driver.step(slots, confidence, relayed)
            relayed = (confidence, np.ones(rows, np.int64))
            lens = torch.tensor(made.lens)
            candidates = torch.cat([anchors[:, None], drafts], dim=1)
            correct, bonus, _ = AcceptGreedy.execute(
                candidates=candidates,
                target_logits=said[candidates].view(-1, VOCAB),
                verify_num_draft_tokens=GAMMA + 1,
                cutoff_verify_lens=lens,
            )
            assert bool((correct < lens).all())
            for row in range(rows):
                texts[row] += [*drafts[row, : int(correct[row])].tolist(), int(bonus[row])]
            anchors = bonus.view(-1).long()
            lengths |= set(made.lens)
    for text in texts:
        assert text[1:] == [int(successor[token]) for token in text[:-1]]
    if isinstance(chosen, NoDraft):
        assert lengths == {1} and driver.drafts == 0
    else:
        assert len(lengths) > 1 and max(map(len, texts)) > rounds + 1
