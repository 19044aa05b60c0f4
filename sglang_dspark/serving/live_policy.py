"""The policy in force on a running scheduler: its decision for each step, and how policy and mode change.

Policy and mode change between steps only, on all ranks in the same one: rank 0's decision about a step carries the mode
and the policy that hold from the next.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sglang_dspark.errors import InputError
from sglang_dspark.policy import Budget, Engine, compile_rule
from sglang_dspark.policy.artifact import Artifact, parse
from sglang_dspark.policy.rule import compute_budget
from sglang_dspark.serving.agreement import Agreement, StepDecision
from sglang_dspark.serving.bound_rule import BoundPolicy, BoundRule, Lagged
from sglang_dspark.serving.classes import Classes
from sglang_dspark.serving.settings import Settings
from sglang_dspark.serving.steps import Geometry, Mode, Step

logger = logging.getLogger(__name__)

SKIP_DRAFT: Final = Budget(0, 0, False)


class LivePolicy:
    """One rank's side of the policy. All ranks of a group make the same calls in the same steps.

    Attributes:
        mode: The mode in force.
        in_force: The policy in force.
        configured: The operator's mode.
        requested_mode: On rank 0, the mode that holds from the next step.
        resting: On rank 0, the guard's: the drafter rests, whatever the budget.
        gamma: Drafts a block.
        verify_mode: SGLang's.
    """

    def __init__(
        self, settings: Settings, text: bytes, planner: Any, group: Any, keys: tuple[bytes, ...] | None
    ) -> None:
        """
        Args:
            text: The policy file's content.
            planner: SGLang's ``DSparkVerifyPlanner``.
            group: The ``GroupCoordinator`` of the ranks that run one batch.
            keys: See ``classes.read_keys``.

        Raises:
            InputError: The artifact does not fit the draft, or differs between ranks.
        """
        self.settings = settings
        self.keys = keys
        self.agreement = Agreement(group)
        self.agreement.check_same(text, settings.policy)
        self.configured = self.requested_mode = self._next_mode = Mode[settings.mode.upper()]
        self.mode = Mode.OFF
        self.resting = False
        self.gamma = int(planner.gamma)
        self.verify_mode = str(planner.mode_value)
        self._planner = planner
        self._upstream_verifies_all = bool(planner._is_verify_all)
        self._neutral = torch.ones(planner.gamma, dtype=torch.float32, device=planner.device)
        # One tensor for good: captured draft graphs read it where it is.
        planner._confidence_head.sts_temperatures = self._neutral.clone()
        self._offers: deque[BoundPolicy] = deque(maxlen=1)
        self._pending_policy: BoundPolicy | None = None
        self.in_force = self.bind(parse(text.decode(), settings.policy), text, 1, Geometry())
        self.in_force.bound.warm()
        self._activate_pending()

    def bind(self, artifact: Artifact, text: bytes, version: int, geometry: Geometry) -> BoundPolicy:
        """Compile an artifact for this server.

        Raises:
            InputError: It is for another block, or needs a belief that it does not have.
        """
        gamma = self.gamma
        if artifact.gamma != gamma:
            raise InputError(
                f"{self.settings.policy}: gamma: {artifact.gamma} is not the running block of {gamma}; tune for {gamma}"
            )
        tiers = np.asarray(geometry.tiers, np.int64)
        try:
            rule = compile_rule(artifact.policy, Engine(gamma, tiers, geometry.max_requests, artifact.cost_belief))
        except InputError:
            raise
        except (ArithmeticError, ValueError) as error:
            raise InputError(
                f"{self.settings.policy}: holds a number that is too large ({error}); tune again"
            ) from error
        weights = getattr(artifact.policy, "weight", (1.0,))
        return BoundPolicy(
            artifact,
            text,
            version,
            geometry,
            BoundRule(rule),
            Classes(artifact.classes, weights, self.keys),
            bool(rule[0]["price_per_token"]),
            len(set(weights)) > 1,
        )

    def offer(self, text: bytes) -> None:
        """Offer a policy on rank 0, from any thread; it is taken between two steps.

        Raises:
            InputError: It is not an artifact, or as :meth:`bind`; the policy in force stays.
        """
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.settings.policy}: not UTF-8 text; write a policy.json") from error
        now = self.in_force
        self._offers.append(self.bind(parse(decoded, self.settings.policy), text, now.version + 1, now.geometry))

    def switch(self, mode: Mode) -> None:
        """Set the operator's mode from the next step on. Called on every rank before the same step."""
        self.configured = self.requested_mode = self._next_mode = mode
        self.resting = False

    def activate(self, geometry: Geometry) -> None:
        """Bring the agreed policy and mode into force, bound to the server's graphs as they are now."""
        if self._pending_policy is not None or self._next_mode is not self.mode:
            self._activate_pending()
        now = self.in_force
        if geometry != now.geometry:
            self.in_force = self.bind(now.artifact, now.text, now.version, geometry)

    def compute_budget(self, step: Step, lagged: Lagged | None) -> None:
        """Set the budget of a step on rank 0, once a step; no other rank computes one.

        Args:
            lagged: None in a step without fresh confidences. In other modes than ``ON`` upstream's confidences, which
                are without STS temperatures.
        """
        now = step.in_force
        if step.budget is not None or now is None or not self.agreement.leads or step.mode is Mode.OFF:
            return
        load, bound = step.load, now.bound
        requests = len(load.context)
        if self.resting and step.mode is Mode.ON:
            step.budget = bound.rest_budget(requests)
            return
        if lagged is not None and step.mode is not Mode.ON:
            confidence = tempered(lagged.confidence[lagged.rows], now.artifact.sts_temperatures)
            generation = lagged.generation[lagged.rows]
            lagged = Lagged(confidence, generation, np.arange(requests), lagged.current_generation)
        step.budget = Budget(
            *compute_budget(bound.rule, bound.survival(lagged, requests), load.context, load.slo_class)
        )

    def agree(self, step: Step, forced: bool) -> None:
        """Give every rank rank 0's budget, and the mode and the policy that hold from the next step.

        Args:
            forced: The operator has fixed upstream's budget (``dspark_force_budget_frac``), which then decides.
        """
        offer = self._offers.popleft() if self._offers and self.agreement.leads else None
        size = 0 if offer is None else len(offer.text)
        budget = step.budget or SKIP_DRAFT
        decision = self.agreement.on_decision(
            StepDecision(budget.tier, budget.cap, budget.draft, self.requested_mode, size)
        )
        if step.mode is not Mode.OFF:
            step.budget = Budget(decision.tier, decision.cap, bool(decision.draft))
        step.steers = step.mode is Mode.ON and not forced
        self._next_mode = self.requested_mode = Mode(decision.mode)
        if decision.pending_policy:
            text = self.agreement.on_text(None if offer is None else offer.text, decision.pending_policy)
            now = self.in_force
            if offer is None:
                offer = self.bind(parse(text.decode(), self.settings.policy), text, now.version + 1, now.geometry)
            # It may have been offered before the policy that is now in force was taken.
            self._pending_policy = offer._replace(version=now.version + 1)
            # A policy that was tuned again deserves another try after a fall-back.
            if self.requested_mode is Mode.OFF:
                self._next_mode = self.requested_mode = self.configured

    def _activate_pending(self) -> None:
        if self._pending_policy is not None:
            self.in_force, self._pending_policy = self._pending_policy, None
        self.mode = self._next_mode
        now = self.in_force
        family, mode = now.artifact.policy.family, self.mode.name.lower()
        logger.info("DSpark policy %d (%s) of %s: %s", now.version, family, self.settings.policy, mode)
        steering = self.mode is Mode.ON
        # Compact without a table marks itself verify-all and would ignore every budget.
        self._planner._is_verify_all = self._upstream_verifies_all and not steering
        temperatures = self._planner._confidence_head.sts_temperatures
        if steering:
            temperatures.copy_(torch.tensor(now.artifact.sts_temperatures, dtype=torch.float32))
        else:
            temperatures.copy_(self._neutral)


def tempered(
    confidence: NDArray[np.float32], temperatures: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float32]:
    """Apply sequential temperature scaling: divide the logit of each position by its temperature.

    Args:
        confidence: float32 [R, gamma], without temperatures.
    """
    inside = np.clip(confidence.astype(np.float64), 1e-7, 1 - 1e-7)
    logit = np.log(inside / (1 - inside))
    scaled: NDArray[np.float64] = 1 / (1 + np.exp(-logit / np.asarray(temperatures)))
    return scaled.astype(np.float32)
