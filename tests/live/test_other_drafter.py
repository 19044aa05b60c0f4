"""With a drafter that does not fit its target the server rests it and decodes at the target's pace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_dspark.demo import DRAFT
from sglang_dspark.local_server.closed_loop import closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.policies import artifact
from tests.live import servers

pytestmark = pytest.mark.xdist_group("sync")


def mistaken(folder: Path) -> Path:
    """Copy of the demo's drafter whose tokens are all off by one, with its confidence unchanged."""
    shutil.copytree(DRAFT, folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("lm_head.weight", "markov_head.markov_w2.weight"):
        weights[name] = torch.roll(weights[name], 1, dims=0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_it_rests_instead_of_verifying_whole_blocks(tmp_path: Path) -> None:
    flags = {
        "--speculative-draft-model-path": str(mistaken(tmp_path / "draft")),
        "--speculative-dspark-fallback-margin": "0.5",
    }
    made = artifact("fixed")
    # Any step time of this machine is within these truths.
    anything = made.provenance.model_copy(update={"truths": {"slope": [1e-6, 1e6]}})
    with servers.steered(tmp_path, "compact", False, **flags) as steered:
        steered.use(made.model_copy(update={"provenance": anything}))
        for _ in range(6):
            assert not closed_loop(steered.server, mixed()[:40], 16, ignore_eos=True).failed
            if steered.server.state()["dspark_policy"]["resting"]:
                break
        state = steered.server.state()["dspark_policy"]
        assert state["resting"] and state["mode"] == "on"
        assert "the drafter rests" in steered.server.log.read_text()
        loaded = closed_loop(steered.server, mixed()[:20], 4, ignore_eos=True)
        # Rests and a probe now and then, where whole blocks verified 7.
        assert not loaded.failed and loaded.verify_length < 1.0
