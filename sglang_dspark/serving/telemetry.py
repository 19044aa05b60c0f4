"""The plugin's metrics on SGLang's own ``/metrics``.

A step adds to arrays in one compiled call; once a second what was added goes to ``prometheus_client``, whose counters
cost microseconds each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.jit import njit
from sglang_dspark.policy.belief import MAX_GAMMA
from sglang_dspark.policy.record import MAX_CLASSES
from sglang_dspark.serving.bound_rule import BoundPolicy
from sglang_dspark.serving.guard import Guard
from sglang_dspark.serving.live_policy import LivePolicy
from sglang_dspark.serving.policy_file_watcher import Watcher
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.steps import Mode, Step, StepResult

PREFIX: Final = "sglang:dspark_"
LENGTHS: Final = MAX_GAMMA + 2

Table = NDArray[np.float64]
_NONE: Final = np.zeros((0, 0), np.float32)

# Rows of the table of totals by length or position.
VERIFIED, ACCEPTED, REACHED, TAKEN, PROMISED = range(5)


@njit(cache=True)
def tally(
    totals: Table,
    by_class: Table,
    verified: NDArray[np.int32],
    accepted: NDArray[np.int32],
    confidence: NDArray[np.float32],
    slo_class: NDArray[np.int64],
) -> None:
    """Add a step to the totals.

    Args:
        totals: float64 [5, LENGTHS]: rounds by verify length and by accepted length (tokens, the target's own
            included); drafts by position that were judged, that were accepted, and the sum of their confidences.
        by_class: float64 [classes, 3]: rounds, drafts verified, tokens.
        confidence: float32 [R, gamma], or [0, 0] in a step without a draft.
    """
    for r in range(verified.shape[0]):
        v, a = verified[r], accepted[r]
        totals[VERIFIED, v] += 1
        totals[ACCEPTED, a + 1] += 1
        k = slo_class[r]
        by_class[k, 0] += 1
        by_class[k, 1] += v
        by_class[k, 2] += a + 1
        if confidence.shape[0]:
            for j in range(min(v, a + 1)):
                totals[REACHED, j] += 1
                totals[TAKEN, j] += j < a
                totals[PROMISED, j] += confidence[r, j]


class Telemetry:
    """Counts steps and publishes the counts."""

    def __init__(
        self,
        policy: LivePolicy | None,
        guard: Guard | None,
        watcher: Watcher | None,
        labels: Mapping[str, str],
        recorder: Recorder | None = None,
    ) -> None:
        """
        Args:
            policy, guard, watcher: None on a server without a policy, whose metrics are those of steps alone.
            labels: SGLang's own, so that dashboards can join both.
        """
        # SGLang sets PROMETHEUS_MULTIPROC_DIR first, and the library chooses its storage when it is imported.
        from prometheus_client import Counter, Gauge

        self._policy, self._guard, self._watcher, self._recorder = policy, guard, watcher, recorder
        self._totals = np.zeros((5, LENGTHS))
        # By the names of a policy's classes: the next policy may list others, or in another order.
        self._by_class: dict[tuple[str, ...], Table] = {}
        self._classes, self._refused = None if policy is None else policy.in_force.classes, 0
        self._steps = {"on": 0, "shadow": 0, "off": 0}
        self._resting = self._drafted = 0
        self._shadow_disagreed = 0
        self._tier = 0
        self._published: dict[Any, float] = {}
        none = np.zeros(0, np.int32)
        tally(
            self._totals,
            self._of(None if policy is None else policy.in_force),
            none,
            none,
            _NONE,
            np.zeros(0, np.int64),
        )  # Compile it.
        names, self._labels = tuple(labels), tuple(labels.values())

        def counter(name: str, text: str, *more: str) -> Any:
            return Counter(PREFIX + name, text, (*names, *more))

        def gauge(name: str, text: str, *more: str) -> Any:
            return Gauge(PREFIX + name, text, (*names, *more), multiprocess_mode="mostrecent")

        self._counters = {
            "steps": counter("steps_total", "Decode steps, by the mode they ran in.", "mode"),
            "resting": counter("resting_steps_total", "Steps without a draft forward, by decision of the policy."),
            "drafted": counter("drafted_tokens_total", "Tokens drafted."),
            "verified": counter("verified_tokens_total", "Drafts verified."),
            "accepted": counter("accepted_tokens_total", "Drafts accepted."),
            "verify_length": counter("verify_length_total", "Rounds by drafts verified.", "length"),
            "accepted_length": counter("accepted_length_total", "Rounds by tokens, the target's included.", "length"),
            "judged": counter("position_judged_total", "Drafts that the target judged, by position.", "position"),
            "taken": counter("position_accepted_total", "Of those, accepted.", "position"),
            "promised": counter("position_confidence_total", "Of those, the sum of confidences.", "position"),
            "class_rounds": counter("class_rounds_total", "Rounds by class.", "slo_class"),
            "class_verified": counter("class_verified_tokens_total", "Drafts verified, by class.", "slo_class"),
            "class_tokens": counter("class_tokens_total", "Tokens of rounds, by class.", "slo_class"),
            "shadow": counter("shadow_disagreements_total", "Shadow steps in which the policy's budget was another."),
            "reloads": counter("policy_reloads_total", "Policies taken while running."),
            "refusals": counter("policy_refusals_total", "Policy files that could not be taken."),
            "falls": counter("policy_fallbacks_total", "Times upstream's planner took over by itself."),
            "rests": counter("policy_rests_total", "Times the drafter was rested as too few drafts were accepted."),
            "recorded": counter("recorded_steps_total", "Steps written by the recorder."),
            "lost": counter("lost_steps_total", "Steps that the recorder could not write."),
            "class_refusals": counter("class_refusals_total", "Requests without a key for the class they named."),
        }
        self._gauges = {
            "version": gauge("policy_version", "Number of the policy in force; the one of the start is 1."),
            "mode": gauge("policy_mode", "0 off, 1 on, 2 shadow."),
            "tier": gauge(
                "verify_tier_tokens",
                "Verify tokens that the policy padded the last step to; 0 where it did not decide.",
            ),
            "calibration": gauge("calibration_error", "Mean confidence less acceptance, by position.", "position"),
            "acceptance": gauge("acceptance_ratio", "Drafts accepted over drafts promised, in the last window."),
            "step_time": gauge("step_time_ratio", "Step time over the range it was tuned for; 1 inside it."),
        }

    def __call__(self, step: Step, result: StepResult) -> None:
        confidence = result.confidence
        tally(
            self._totals,
            self._of(step.in_force),
            result.verified,
            result.accepted,
            _NONE if confidence is None else confidence,
            step.load.slo_class,
        )
        self._steps[step.mode.name.lower()] += 1
        if step.drafted:
            self._drafted += step.gamma * len(result.verified)
        else:
            self._resting += 1
        budget = step.budget
        if budget is not None:
            self._tier = budget.tier if step.steers else 0
            if step.mode is Mode.SHADOW and step.upstream_cap != budget.cap:
                self._shadow_disagreed += 1

    def _of(self, in_force: BoundPolicy | None) -> Table:
        names = () if in_force is None else in_force.artifact.classes
        if names not in self._by_class:
            self._by_class[names] = np.zeros((MAX_CLASSES, 3))
        return self._by_class[names]

    def publish(self) -> None:
        """Give ``prometheus_client`` what was added since the last call."""
        # Read first: what was counted before a policy came into force is published no later than its version.
        now = None if self._policy is None else self._policy.in_force
        totals = self._totals.copy()
        lengths = np.arange(LENGTHS)
        add = self._add
        for mode, steps in self._steps.items():
            add("steps", steps, mode)
        add("resting", self._resting)
        add("drafted", self._drafted)
        add("verified", float(totals[VERIFIED] @ lengths))
        add("accepted", float(totals[ACCEPTED] @ np.maximum(lengths - 1, 0)))
        for i in range(LENGTHS):
            add("verify_length", totals[VERIFIED, i], str(i))
            add("accepted_length", totals[ACCEPTED, i], str(i))
            add("judged", totals[REACHED, i], str(i + 1))
            add("taken", totals[TAKEN, i], str(i + 1))
            add("promised", totals[PROMISED, i], str(i + 1))
            if totals[REACHED, i]:
                error = (totals[PROMISED, i] - totals[TAKEN, i]) / totals[REACHED, i]
                self._gauges["calibration"].labels(*self._labels, str(i + 1)).set(error)
        by_class: dict[str, Table] = {}
        for names, counted in list(self._by_class.items()):
            for name, row in zip(names, counted.copy(), strict=False):
                by_class[name] = by_class.get(name, 0.0) + row
        for name, (rounds, verified, tokens) in by_class.items():
            add("class_rounds", rounds, name)
            add("class_verified", verified, name)
            add("class_tokens", tokens, name)
        add("shadow", self._shadow_disagreed)
        if self._recorder is not None:
            add("recorded", self._recorder.written)
            add("lost", self._recorder.lost)
        if self._watcher is not None:
            add("reloads", self._watcher.reloads)
            add("refusals", self._watcher.refusals)
        if self._guard is not None:
            add("falls", self._guard.falls)
            add("rests", self._guard.rests)
            self._set("acceptance", self._guard.acceptance)
            self._set("step_time", self._guard.step_time)
        if self._policy is not None and now is not None:
            if now.classes is not self._classes and self._classes is not None:
                self._refused += self._classes.refused
                self._classes = now.classes
            add("class_refusals", self._refused + now.classes.refused)
            self._set("version", now.version)
            self._set("mode", self._policy.mode)
            self._set("tier", self._tier)

    def _add(self, name: str, total: float, *label: str) -> None:
        """Raise a counter to ``total``. Counters at 0 are not published."""
        more = total - self._published.get((name, *label), 0.0)
        if more > 0:
            self._counters[name].labels(*self._labels, *label).inc(more)
            self._published[(name, *label)] = total

    def _set(self, name: str, value: float) -> None:
        self._gauges[name].labels(*self._labels).set(value)
