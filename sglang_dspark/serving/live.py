"""The plugin's state in a scheduler: steps and prefills as they run, and who is notified of their results.

Every scheduler of a server with a policy has one. Its DSPARK part, the policy, is there only where a planner follows
one; without it steps are counted, timed and recorded all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sglang_dspark.policy import Load
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.serving.live_policy import LivePolicy, tempered
from sglang_dspark.serving.owners import Owners
from sglang_dspark.serving.settings import Settings
from sglang_dspark.serving.step_clock import StepClock
from sglang_dspark.serving.steps import (
    Ended,
    EndedPrefill,
    EndedStep,
    Geometry,
    Mode,
    Prefill,
    Step,
    StepResult,
)


class LiveServer:
    """One rank's side of a running scheduler.

    Attributes:
        policy: The policy; None on a server that follows none.
        leads: This rank leads its group.
        gamma: Drafts a block; 0 without speculation.
        scheduler: SGLang's ``Scheduler``; None until it is built.
        clock: Counts and times steps and prefills.
        detailed: Note every request's context and class, even where the policy does not need them.
        observers: Called with every decode step and its results.
        recorders: Called with every step and every prefill.
        owners: Generations of the relay's confidences; None before the first step.
    """

    def __init__(self, settings: Settings, policy: LivePolicy | None, *, leads: bool, gamma: int, on_cpu: bool) -> None:
        self.settings = settings
        self.policy = policy
        self.leads = leads
        self.gamma = gamma
        self.scheduler: Any = None
        self.clock = StepClock(returns_results=on_cpu)
        self.detailed = False
        self.observers: list[Callable[[Step, StepResult], None]] = []
        self.recorders: list[Callable[[Ended], None]] = []
        self.owners: Owners | None = None
        self._context = np.zeros(MAX_REQUESTS, np.int64)
        self._slo_class = np.zeros(MAX_REQUESTS, np.int64)

    def begin_step(self, batch: Any, geometry: Geometry | None = None) -> Step:
        """Start a decode step: bring what was agreed into force, and note the load.

        Args:
            geometry: The captured graphs that verification replays, where there is a policy.
        """
        now, mode = None, Mode.OFF
        if self.policy is not None:
            self.policy.activate(geometry or Geometry())
            now, mode = self.policy.in_force, self.policy.mode
        requests = batch.reqs
        n = len(requests)
        context, slo_class = self._context[:n], self._slo_class[:n]
        detailed = self.detailed or bool(self.recorders)
        if detailed or (now is not None and now.needs_context):
            if batch.seq_lens_cpu is not None:
                context = batch.seq_lens_cpu[:n].numpy().astype(np.int64)
            else:
                context = np.fromiter((request.kv.kv_committed_len for request in requests), np.int64, n)
        if now is not None and (detailed or now.needs_class):
            slo_class = np.empty(n, np.int64)
            now.classes.of(requests, slo_class)
        load = Load(context, slo_class, self._queued())
        step = Step(now, mode, load, self.gamma, self._rids(batch), batch.after_idle_gap)
        step.keeps_confidence = now is not None and bool(self.observers or self.recorders)
        return step

    def begin_prefill(self, batch: Any) -> Prefill:
        """Start a prefill: note its load."""
        policy = self.policy
        return Prefill(
            Mode.OFF if policy is None else policy.mode,
            0 if policy is None else policy.in_force.version,
            self._queued(),
            batch.extend_num_tokens,
            sum(batch.prefix_lens),
            self._rids(batch),
            batch.after_idle_gap,
        )

    def end_step(self, step: Step, accept_lens: torch.Tensor | None, cap_lens: torch.Tensor | None) -> None:
        """Take a decode step's results, which upstream has on the host by now.

        Args:
            accept_lens: int32 [R], tokens of the round, the target's own included; None without speculation.
            cap_lens: int32 [R], verify lengths, anchors included; None where whole blocks were verified.
        """
        ended_s, elapsed_s = self.clock.end(step.ended_s, step.after_idle)
        if not self.observers and not self.recorders:
            return
        if accept_lens is None:
            accepted = verified = np.zeros(len(step.load.context), np.int32)
        else:
            accepted = accept_lens.numpy() - 1
            verified = np.full_like(accepted, self.gamma) if cap_lens is None else cap_lens.numpy() - 1
        confidence = None
        if step.confidence is not None:
            confidence = step.confidence.numpy()
            if step.mode is not Mode.ON and step.in_force is not None:
                confidence = tempered(confidence, step.in_force.artifact.sts_temperatures)
        result = StepResult(verified, accepted, confidence, ended_s, elapsed_s, self.clock.steps)
        for observer in self.observers:
            observer(step, result)
        if step.rids:  # Otherwise it began before anybody recorded.
            for recorder in self.recorders:
                recorder(EndedStep(step, result))

    def end_prefill(self, prefill: Prefill) -> None:
        """Note that a prefill's results are on the host."""
        ended_s, elapsed_s = self.clock.end(prefill.ended_s, prefill.after_idle)
        if prefill.rids:
            for recorder in self.recorders:
                recorder(EndedPrefill(prefill, ended_s, elapsed_s, self.clock.steps))

    def _queued(self) -> int:
        """Waiting requests; looked up each time, as SGLang replaces the list whenever it admits some."""
        return 0 if self.scheduler is None else len(self.scheduler.waiting_queue)

    def _rids(self, batch: Any) -> tuple[str, ...]:
        return tuple(request.rid for request in batch.reqs) if self.recorders else ()
