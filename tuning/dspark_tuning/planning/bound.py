"""The bottleneck of a deployment at a load, with the figures that show it."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_simulator.workloads.lengths import LengthDistribution
from dspark_tuning.planning.attainment import Attained
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS

FULL: Final = 0.9
# SGLang reserves room for the tokens that a request has yet to write, so a pool may refuse requests at this share.
RESERVED: Final = 1 / 3
DRAFTS: Final = 0.4
# A step is compute-bound if doubling its tokens lengthens it by at least this share.
GROWTH: Final = 0.5


class Bound(NamedTuple):
    """A bottleneck.

    Attributes:
        word: ``KV-bound``, ``queue-bound``, ``launch-bound``, ``draft-bound``, ``compute-bound`` or
            ``bandwidth-bound``.
        because: The figures that show it.
    """

    word: str
    because: str


def bound(scenario: Scenario, arm: Arm, attained: Attained) -> Bound:
    """The bottleneck of a simulated deployment.

    KV pools and slots are checked first, since steps cannot grow while requests wait for these; then the parts of a
    decode step at the mean load, by the step times of the deployment.
    """
    figures = attained.figures
    running, kv = figures["running"], figures["kv_use"]
    if kv >= FULL or (kv >= FULL / 2 and figures["retracted"] > 0):
        return Bound("KV-bound", f"{kv:.0%} of the KV pool in use, {figures['retracted']:.0f} requests retracted")
    slots = arm.server.max_running_requests
    if running >= FULL * slots:
        return Bound("queue-bound", f"{running:.0f} of {slots} slots taken, {figures['queued']:.0f} requests waiting")
    if figures["queued"] > running and kv >= RESERVED:
        return Bound(
            "KV-bound", f"{kv:.0%} of the KV pool in use and {figures['queued']:.0f} requests waiting for room"
        )
    limit = arm.server.captured_requests()
    if arm.server.capture_requests and running > limit:
        return Bound("launch-bound", f"{running:.0f} running requests: beyond {limit}, no step is a captured graph")
    if not running:
        return Bound("compute-bound", "no step decodes: requests end with their prefill")
    cost = scenario.profiled_steps(arm.server.gamma)[0]
    requests = min(max(round(running), 1), MAX_REQUESTS)
    drafted = figures["verify_length"] if arm.server.speculative else 0.0
    tokens = min(max(round(running * (1 + drafted)), 1), MAX_TOKENS // 2)
    verify_s = float(cost["captured_s"][tokens]) + requests * _context(scenario) * float(cost["context_s_per_token"])
    draft_s = float(cost["draft_s"][requests]) if arm.server.speculative and drafted > 0 else 0.0
    if draft_s >= DRAFTS * (draft_s + verify_s):
        return Bound("draft-bound", f"{draft_s / (draft_s + verify_s):.0%} of a step drafts")
    growth = float(cost["captured_s"][2 * tokens]) / float(cost["captured_s"][tokens]) - 1.0
    because = f"twice the {tokens} tokens of a step would take {1 + growth:.1f} times as long"
    return Bound("compute-bound" if growth >= GROWTH else "bandwidth-bound", because)


def _context(scenario: Scenario) -> float:
    """Mean context of a running request in tokens, with half of its output."""
    contexts = [
        (klass.share, mean_tokens(klass.prompt) + mean_tokens(klass.output) / 2)
        for klass in scenario.workload.with_own_lengths()
        if klass.prompt is not None and klass.output is not None
    ]
    return sum(share * tokens for share, tokens in contexts) / sum(share for share, _ in contexts) if contexts else 0.0


def mean_tokens(lengths: LengthDistribution) -> float:
    """Mean of a length distribution in tokens, from its quantiles."""
    return float(lengths.quantiles((np.arange(512) + 0.5) / 512).mean())
