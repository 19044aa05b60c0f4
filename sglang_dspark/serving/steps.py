"""Decode steps and prefills of a running scheduler, from their start to their results."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sglang_dspark.policy import Budget, Load
from sglang_dspark.policy.belief import MAX_REQUESTS

if TYPE_CHECKING:
    from sglang_dspark.serving.bound_rule import BoundPolicy


class Mode(IntEnum):
    """Whose budget is applied: upstream's (``OFF``), the policy's (``ON``), or upstream's while the policy computes one
    too (``SHADOW``)."""

    OFF = 0
    ON = 1
    SHADOW = 2


class Geometry(NamedTuple):
    """Captured CUDA graphs of the server, known once capturing has ended.

    Attributes:
        tiers: Captured verify tokens, ascending; empty where nothing is captured.
        max_requests: Largest batch that a captured graph takes.
    """

    tiers: tuple[int, ...] = ()
    max_requests: int = MAX_REQUESTS


class Step:
    """One decode step.

    Attributes:
        in_force: The policy of this step; None on a server without one.
        gamma: Drafts a block; 0 without speculation.
        mode: The mode of this step.
        load: Requests, context and queue at its start.
        steers: The policy's budget is the one that is applied.
        budget: The policy's budget; rank 0's once the ranks have agreed.
        upstream_cap: Upstream's budget, where that was computed.
        tier: Verify tokens of the graph that ran, padding included; None where none did.
        drafted: The drafter ran.
        confidence: float [R, gamma]; on the device until the step's results are copied to the host.
        keeps_confidence: Its confidences are needed once it has ended.
        rids: Request ids, where steps are recorded.
        after_idle: The server had nothing to run before it.
        publications_ago: Which publication of the relay its budget's confidences are from, 1 for the last; 0 where they
            do not come from the relay.
        ended_s: Monotonic time at which its forward returned, where that waits for the results; NaN elsewhere.
    """

    __slots__ = (
        "after_idle",
        "budget",
        "confidence",
        "drafted",
        "ended_s",
        "gamma",
        "in_force",
        "keeps_confidence",
        "load",
        "mode",
        "publications_ago",
        "rids",
        "steers",
        "tier",
        "upstream_cap",
    )

    def __init__(
        self,
        in_force: BoundPolicy | None,
        mode: Mode,
        load: Load,
        gamma: int,
        rids: tuple[str, ...] = (),
        after_idle: bool = False,
    ) -> None:
        self.in_force = in_force
        self.gamma = gamma
        self.mode = mode
        self.load = load
        self.steers = False
        self.budget: Budget | None = None
        self.upstream_cap: int | None = None
        self.tier: int | None = None
        self.drafted = False
        self.keeps_confidence = False
        self.confidence: torch.Tensor | None = None
        self.rids = rids
        self.after_idle = after_idle
        self.publications_ago = 0
        self.ended_s = math.nan


class StepResult(NamedTuple):
    """Results of a decode step, on the host.

    Attributes:
        verified: int32 [R], drafts verified, 0..gamma.
        accepted: int32 [R], of those, accepted.
        confidence: float32 [R, gamma], with the policy's STS temperatures; None in a step without a draft.
        ended_s: Monotonic.
        elapsed_s: Since the end of the step or prefill before; NaN where that is not the step's time, since the server
            idled or did other work between them.
        number: Counts the steps and prefills of the process from 1.
    """

    verified: NDArray[np.int32]
    accepted: NDArray[np.int32]
    confidence: NDArray[np.float32] | None
    ended_s: float
    elapsed_s: float
    number: int


class Prefill:
    """One prefill, from its launch to its results.

    Attributes:
        version: Of the policy in force; 0 without one.
        queued: Waiting requests.
        tokens: Prompt tokens that it computes.
        context_tokens: Tokens of its requests that are computed already: a cached prefix or earlier chunks.
        mode, rids, after_idle, ended_s: As of a :class:`Step`.
    """

    __slots__ = ("after_idle", "context_tokens", "ended_s", "mode", "queued", "rids", "tokens", "version")

    def __init__(
        self,
        mode: Mode,
        version: int,
        queued: int,
        tokens: int,
        context_tokens: int,
        rids: tuple[str, ...],
        after_idle: bool,
    ) -> None:
        self.mode = mode
        self.version = version
        self.queued = queued
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.rids = rids
        self.after_idle = after_idle
        self.ended_s = math.nan


class EndedPrefill(NamedTuple):
    """A prefill and its times; ``ended_s``, ``elapsed_s`` and ``number`` as of a :class:`StepResult`."""

    prefill: Prefill
    ended_s: float
    elapsed_s: float
    number: int

    @property
    def requests(self) -> int:
        return len(self.prefill.rids)


class EndedStep(NamedTuple):
    """A decode step and its results."""

    step: Step
    result: StepResult

    @property
    def number(self) -> int:
        return self.result.number

    @property
    def requests(self) -> int:
        return len(self.step.rids)


Ended = EndedStep | EndedPrefill
"""What a recorder takes."""
