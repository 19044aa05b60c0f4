"""``dspark kernels`` run in subprocesses: bytes and launches against goals, and compilation for a target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dspark_kernels import launch_configs
from dspark_kernels.startup import compile_check

GOALS = {"1": 1.0, "16": 1.0, "64": 0.65, "256": 0.45}


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**kept, **variables}, timeout=1100, check=False
    )


@pytest.fixture(scope="module")
def moved() -> dict[str, Any]:
    completed = run("-W", "ignore", "-m", "dspark_tuning.cli", "kernels", "bytes", "--json")
    assert completed.returncode == 0, completed.stderr
    return dict(json.loads(completed.stdout))


def test_goals_on_bytes_and_launches(moved: dict[str, Any]) -> None:
    for rows, row in moved["rows"].items():
        assert row["launches"] == 2
        for count in ("", "_l2"):
            assert row["vs_upstream" + count] <= GOALS[rows]
            if rows != "256":
                assert row["vs_minimum" + count] <= 1.05
            assert moved["greedy"][rows]["vs_upstream" + count] <= 1.0
    for target in moved["targets"].values():
        for rows, row in target["sampled"].items():
            assert row["vs_upstream_l2"] <= GOALS[rows] and row["vs_minimum_l2"] <= 1.05
        for how in ("sampled", "eager", "greedy"):
            assert all(one[how]["vs_upstream"] < 1.0 for one in target["round"].values())


def test_bytes_by_hand(moved: dict[str, Any]) -> None:
    """A position at 64 requests computed by hand: W2, the logits, the latents of 108 programs, and small terms."""
    weights, logits = 151_936 * 256 * 2, 64 * 151_936 * 2
    latents, partials = 108 * 64 * 256 * 2, 2 * 5 * 108 * 64 * 4
    small = 108 * 64 * (8 + 4 + 16) + 64 * 16
    assert moved["rows"]["64"]["bytes"] == weights + logits + latents + partials + small
    assert len(moved["counted"]) == 4 and all(len(one["stages"]) == 11 for one in moved["counted"])


def test_a_round_in_a_graph_writes_the_corrected_logits(moved: dict[str, Any]) -> None:
    """At 256 requests, by hand: the buffer is written, and acceptance reads a row of it instead of ``W2``."""
    in_graph, eager = (moved["round"]["256"][how]["bytes_l2"] for how in ("sampled", "eager"))
    written, weights = 256 * 7 * 151_936 * 2, 151_936 * 256 * 2
    latents = 256 * (256 * 2 + 2 * 8)
    assert in_graph - eager == written - weights - latents
    assert moved["round"]["1"]["sampled"] == moved["round"]["1"]["eager"]


def test_kernels_compile_for_a_target_without_a_spill() -> None:
    """The target that compiles fastest; ``dspark kernels check`` compiles for all."""
    completed = run("-m", "dspark_tuning.cli", "kernels", "check", "--target", "gfx942", "--json")
    assert completed.returncode == 0, completed.stderr + completed.stdout
    kernels = json.loads(completed.stdout)["kernels"]
    names = {one["kernel"] for one in kernels}
    assert names == {
        "markov_scan",
        "markov_merge",
        "markov_finish",
        "confidence_rows",
        "rank_and_admit",
        "target_rows",
        "accept_chain",
        "residual_scan",
        "argmax_partials",
    }
    assert all(0 < one["registers"] <= 512 and one["code_bytes"] > 1000 for one in kernels)


def test_a_spill_is_read_from_the_code_object() -> None:
    text = "  .vgpr_count: 256\n  .vgpr_spill_count: 6\n  .private_segment_fixed_size: 48\n"
    assert compile_check._amd(text) == (256, 48)
    with pytest.raises(ValueError, match="private_segment_fixed_size"):
        compile_check._amd("  .vgpr_count: 256\n")


def test_an_unknown_target_is_named() -> None:
    completed = run("-m", "dspark_tuning.cli", "kernels", "check", "--target", "sm_70")
    assert completed.returncode == 2
    assert "--target: 'sm_70' is not one; use sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, gfx942" in completed.stderr


def test_configurations_fit_their_rows() -> None:
    for target in launch_configs.TARGETS.values():
        for table in (target.draft, target.residual, target.single, target.wide or target.draft):
            blocks = [scan.block_rows for scan in table]
            assert blocks == sorted(blocks) and blocks[0] == 16
            assert all(scan.block_vocab % 4 == 0 and scan.parts(151_936, 1024) >= 1 for scan in table)
