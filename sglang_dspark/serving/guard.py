"""Rest the drafter, or hand over to upstream's planner, when the server differs from what the policy was tuned for."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np

from sglang_dspark.policy.belief import MAX_GAMMA
from sglang_dspark.serving.live_policy import LivePolicy
from sglang_dspark.serving.steps import Mode, Step, StepResult

logger = logging.getLogger(__name__)

WINDOW_STEPS: Final = 256
LEAST_DRAFTS: Final = 2_000

PROBE_DRAFTS: Final = 256
"""Drafts by which a rested drafter is judged."""

LEAST_REST_STEPS: Final = 256
MOST_REST_STEPS: Final = 4_096

_POSITIONS: Final = np.arange(MAX_GAMMA)


class Guard:
    """Compares acceptance and step time with what the artifact promises, over windows of steered steps.

    Acceptance is drafts accepted over drafts expected from their confidences, 1 where those are calibrated. Step time
    is the median of measured over believed seconds, which the tuner expected between ``believed * slope + overhead``
    at the two ends of ``provenance.truths``. Either may leave its range by the factor ``1 + margin``.

    Where fewer drafts are accepted than that, as with a drafter of another version, upstream's planner would do worse:
    it trusts the same confidences, or verifies whole blocks. So the drafter rests, and is tried again after a number of
    steps that doubles while that fails. In the other cases upstream's planner takes over.

    Attributes:
        falls: How often it handed over.
        rests: How often acceptance fell so low that it rested the drafter.
    """

    def __init__(self, policy: LivePolicy, margin: float) -> None:
        self._policy = policy
        self._factor = 1.0 + margin
        self.falls = 0
        self.rests = 0
        self.acceptance = math.nan
        self.step_time = math.nan
        self._version = 0
        self._probing = False
        self._rest_steps = LEAST_REST_STEPS
        self._rested = 0
        self._reset()

    def _reset(self) -> None:
        self._expected = self._accepted = 0.0
        self._drafts = 0
        self._excess: list[float] = []

    def __call__(self, step: Step, result: StepResult) -> None:
        if not step.steers or step.budget is None or step.in_force is None:
            return
        if step.in_force.version != self._version:
            self._version = step.in_force.version
            self._policy.resting = self._probing = False
            self._rest_steps = LEAST_REST_STEPS
            self._reset()
        if self._policy.resting:
            self._rest(step)
            return
        verified = int(result.verified.sum())
        if result.confidence is not None and verified:
            survival = result.confidence.cumprod(axis=1)
            within = _POSITIONS[None, : survival.shape[1]] < result.verified[:, None]
            self._expected += float(survival.sum(where=within))
            self._accepted += float(result.accepted.sum())
            self._drafts += verified
        if step.budget.draft and not math.isnan(result.elapsed_s):
            believed_s = step.in_force.bound.believed_s(len(step.load.context), step.budget.tier)
            if not math.isnan(believed_s):
                self._excess.append(_beyond(step.in_force.artifact.provenance.truths, believed_s, result.elapsed_s))
        if len(self._excess) >= WINDOW_STEPS:
            self.step_time = median(self._excess)
            self._excess.clear()
            if not 1 / self._factor <= self.step_time <= self._factor:
                self._fall(f"steps take {self.step_time:.2f} times what the policy was tuned for")
        if self._drafts >= (PROBE_DRAFTS if self._probing else LEAST_DRAFTS):
            self.acceptance = self._accepted / max(self._expected, 1e-9)
            self._expected = self._accepted = 0.0
            self._drafts = 0
            self._judge_acceptance()

    def _judge_acceptance(self) -> None:
        reason = f"{self.acceptance:.2f} times the drafts are accepted that the confidences promise"
        probed, self._probing = self._probing, False
        if self.acceptance < 1 / self._factor:
            if probed:
                self._rest_steps = min(2 * self._rest_steps, MOST_REST_STEPS)
            elif self._policy.requested_mode is Mode.ON:
                self.rests += 1
                logger.warning(
                    "%s: %s; the drafter rests, and is tried again every %d to %d steps. Check that it is the one that "
                    "the policy was tuned for, or tune again",
                    self._policy.settings.policy,
                    reason,
                    self._rest_steps,
                    MOST_REST_STEPS,
                )
            self._policy.resting = True
            self._rested = 0
        elif probed:
            logger.warning("%s: %s again; the policy drafts as before", self._policy.settings.policy, reason)
        elif self.acceptance > self._factor:
            self._fall(reason)
        else:
            self._rest_steps = max(self._rest_steps // 2, LEAST_REST_STEPS)

    def _rest(self, step: Step) -> None:
        """Count a step of a rest; steps that were decided before it are ignored."""
        if step.budget is not None and not step.budget.draft:
            self._rested += 1
        if self._rested >= self._rest_steps:
            self._policy.resting = False
            self._probing = True
            self._reset()

    def _fall(self, reason: str) -> None:
        if self._policy.requested_mode is not Mode.ON:
            return
        self.falls += 1
        self._policy.requested_mode = Mode.OFF
        logger.warning(
            "%s: %s; SGLang's own planner takes over. Tune again, or set the mode to 1 to continue",
            self._policy.settings.policy,
            reason,
        )


def _beyond(truths: Mapping[str, Sequence[float]], believed_s: float, elapsed_s: float) -> float:
    """Factor by which a step's time is outside the range that the policy was tuned for; 1 inside."""
    low, high = _ends(truths.get("overhead_s"), 0.0)
    least, most = _ends(truths.get("slope"), 1.0)
    least_s, most_s = believed_s * least + low, believed_s * most + high
    if elapsed_s > most_s > 0:
        return elapsed_s / most_s
    return elapsed_s / least_s if elapsed_s < least_s else 1.0


def _ends(values: Sequence[float] | None, neutral: float) -> tuple[float, float]:
    """The range of an artifact's truths; ``neutral`` where the artifact names none."""
    return (min(values), max(values)) if values else (neutral, neutral)
