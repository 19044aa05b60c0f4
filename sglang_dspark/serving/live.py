"""The policy in a running scheduler: what is in force, what each step is decided by, and how either changes.

What is in force changes between steps only, on all ranks in the same one: rank 0's words about a step carry the mode
and the policy that hold from the next.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sglang_dspark.errors import InputError
from sglang_dspark.policy import Budget, Engine, Load, compile_rule
from sglang_dspark.policy.artifact import Artifact, parse
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.serving.agreement import Agreement, Words
from sglang_dspark.serving.classes import Classes
from sglang_dspark.serving.decision import Decider, Lagged
from sglang_dspark.serving.owners import Owners
from sglang_dspark.serving.settings import Settings

if TYPE_CHECKING:
    from sglang_dspark.serving.policy_file_watcher import Watcher
    from sglang_dspark.serving.stream import Stream

logger = logging.getLogger(__name__)

REST = Budget(0, 0, False)


class Mode(IntEnum):
    """Who decides: upstream (``OFF``), the policy (``ON``), or upstream with the policy looking on (``SHADOW``)."""

    OFF = 0
    ON = 1
    SHADOW = 2


class Geometry(NamedTuple):
    """What of the server a rule is bound to; it is known once the graphs are captured.

    Attributes:
        tiers: Captured verify tokens, ascending; empty where nothing is captured.
        max_requests: Largest batch that a captured graph takes.
    """

    tiers: tuple[int, ...] = ()
    max_requests: int = MAX_REQUESTS


class InForce(NamedTuple):
    """A policy bound to the server. Replaced whole."""

    artifact: Artifact
    text: bytes
    version: int
    geometry: Geometry
    decider: Decider
    classes: Classes
    needs_context: bool
    needs_class: bool

    @property
    def sha256(self) -> str:
        """Of the file, as ``sha256sum`` prints it."""
        return hashlib.sha256(self.text).hexdigest()


class Step:
    """One decode step, from its decision to its results.

    Attributes:
        in_force, mode: What holds in this step.
        load: What the host knew.
        steers: The policy's decision is the one that is applied.
        budget: The policy's decision; rank 0's once it is agreed.
        upstream_cap: Upstream's budget, where that was computed.
        tier: Verify tokens of the graph that ran, padding included; None where none did.
        drafted: The drafter ran.
        confidence: float [R, gamma]; on the device until the step's results are copied to the host.
        rids: The requests, where steps are recorded.
        after_idle: The server had nothing to run before it.
        publications_ago: Which publication of the relay its budget's confidences are from, 1 for the last; 0 where they
            do not come from the relay.
        ended_s: When its forward returned, where that waits for the results; NaN elsewhere.
    """

    __slots__ = (
        "after_idle",
        "budget",
        "confidence",
        "drafted",
        "ended_s",
        "in_force",
        "live",
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
        live: LivePolicy,
        in_force: InForce,
        mode: Mode,
        load: Load,
        rids: tuple[str, ...] = (),
        after_idle: bool = False,
    ) -> None:
        self.live = live
        self.in_force = in_force
        self.mode = mode
        self.load = load
        self.steers = False
        self.budget: Budget | None = None
        self.upstream_cap: int | None = None
        self.tier: int | None = None
        self.drafted = False
        self.confidence: torch.Tensor | None = None
        self.rids = rids
        self.after_idle = after_idle
        self.publications_ago = 0
        self.ended_s = math.nan


class Outcome(NamedTuple):
    """What became of a step, on the host.

    Attributes:
        verified: int32 [R], drafts verified, 0..gamma.
        accepted: int32 [R], of those, accepted.
        confidence: float32 [R, gamma], with the policy's STS temperatures; None in a step without a draft.
        ended_s: Monotonic.
        elapsed_s: Since the end of the step or prefill before; NaN where that tells nothing of the step's time, since
            the server idled or was held up between them.
        number: Counts the steps and prefills of the process from 1.
    """

    verified: NDArray[np.int32]
    accepted: NDArray[np.int32]
    confidence: NDArray[np.float32] | None
    ended_s: float
    elapsed_s: float
    number: int


class Prefill(NamedTuple):
    """One prefill, from its launch to its results.

    Attributes:
        tokens: Prompt tokens that it computes.
        context_tokens: What the requests had before, from the prefix cache or an earlier chunk.
        rids, after_idle, ended_s: As of a step.
    """

    live: LivePolicy
    mode: Mode
    version: int
    queued: int
    tokens: int
    context_tokens: int
    rids: tuple[str, ...]
    after_idle: bool
    ended_s: float = math.nan


class Prefilled(NamedTuple):
    """What became of a prefill; times and number as of an :class:`Outcome`."""

    prefill: Prefill
    ended_s: float
    elapsed_s: float
    number: int


Observer = Callable[[Step, Outcome], None]
Row = tuple[Step, Outcome] | Prefilled
"""A decode step or a prefill that has ended."""

Recording = Callable[[Row], None]


class LivePolicy:
    """One rank's side of the policy. All ranks of a group make the same calls in the same steps.

    Attributes:
        asked: The mode that holds from the next step, if this is rank 0.
        resting: On rank 0, the guard's: the drafter rests whatever the policy decides.
        scheduler: SGLang's ``Scheduler``; None until it is built.
        detailed: Note every request's context and class, whether or not the policy looks at them.
        gamma: Drafts a block.
        verify_mode: SGLang's.
        observers: Called with every step's outcome.
        recorders: Called with every step and every prefill.
        owners: Whose the relay's confidences are; None before the first step.
        step: The step that is being decided or run.
        steps: Steps and prefills that have ended.
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
        self.configured = Mode[settings.mode.upper()]
        self.asked = self.configured
        self.resting = False
        self.scheduler: Any = None
        self.detailed = False
        self.observers: list[Observer] = []
        self.watcher: Watcher | None = None
        self.stream: Stream | None = None
        self.recorders: list[Recording] = []
        self.owners: Owners | None = None
        self.step: Step | None = None
        self.steps = 0
        self._ended_s = self._held_up_s = math.nan
        self.gamma = int(planner.gamma)
        self.verify_mode = str(planner.mode_value)
        self._planner = planner
        self._upstream_verifies_all = bool(planner._is_verify_all)
        self._neutral = torch.ones(planner.gamma, dtype=torch.float32, device=planner.device)
        # One tensor for good: captured draft graphs read it where it is.
        planner._confidence_head.sts_temperatures = self._neutral.clone()
        self._news: deque[InForce] = deque(maxlen=1)
        self._next: InForce | None = None
        self._next_mode = self.configured
        self.mode = Mode.OFF
        self._context = np.zeros(MAX_REQUESTS, np.int64)
        self._slo_class = np.zeros(MAX_REQUESTS, np.int64)
        self.in_force = self.bind(parse(text.decode(), settings.policy), text, 1, Geometry())
        self.in_force.decider.warm()
        self._turn()

    def bind(self, artifact: Artifact, text: bytes, version: int, geometry: Geometry) -> InForce:
        """Compiles an artifact for this server.

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
        return InForce(
            artifact,
            text,
            version,
            geometry,
            Decider(rule),
            Classes(artifact.classes, weights, self.keys),
            bool(rule[0]["price_per_token"]),
            len(set(weights)) > 1,
        )

    def offer(self, text: bytes) -> None:
        """On rank 0, from any thread: a policy to be taken between two steps.

        Raises:
            InputError: It is not an artifact, or as :meth:`bind`; the policy in force stays.
        """
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.settings.policy}: not UTF-8 text; write a policy.json") from error
        now = self.in_force
        self._news.append(self.bind(parse(decoded, self.settings.policy), text, now.version + 1, now.geometry))

    def begin(self, batch: Any, geometry: Geometry) -> Step:
        """Brings what was agreed into force, and notes the load of a decode step."""
        if self._next is not None or self._next_mode is not self.mode:
            self._turn()
        now = self.in_force
        if geometry != now.geometry:
            now = self.in_force = self.bind(now.artifact, now.text, now.version, geometry)
        requests = batch.reqs
        n = len(requests)
        context, slo_class = self._context[:n], self._slo_class[:n]
        detailed = self.detailed or bool(self.recorders)
        if now.needs_context or detailed:
            if batch.seq_lens_cpu is not None:
                context = batch.seq_lens_cpu[:n].numpy().astype(np.int64)
            else:
                context = np.fromiter((request.kv.kv_committed_len for request in requests), np.int64, n)
        if now.needs_class or detailed:
            slo_class = np.empty(n, np.int64)
            now.classes.of(requests, slo_class)
        load = Load(context, slo_class, self._queued())
        self.step = Step(self, now, self.mode, load, self._rids(batch), batch.after_idle_gap)
        return self.step

    def decide(self, step: Step, lagged: Lagged | None) -> None:
        """Makes rank 0's decision, once a step; None is for a step without fresh confidences."""
        if step.budget is None and self.agreement.leads and step.mode is not Mode.OFF:
            decider = step.in_force.decider
            rests = self.resting and step.mode is Mode.ON
            step.budget = decider.rest(step.load) if rests else decider.budget(lagged, step.load)

    def agree(self, step: Step, forced: bool) -> None:
        """Gives every rank rank 0's decision, and the mode and the policy that hold from the next step.

        Args:
            forced: The operator has fixed upstream's budget (``dspark_force_budget_frac``), which then decides.
        """
        news = self._news.popleft() if self._news and self.agreement.leads else None
        size = 0 if news is None else len(news.text)
        budget = step.budget or REST
        words = self.agreement.on_words(Words(budget.tier, budget.cap, budget.draft, self.asked, size))
        if step.mode is not Mode.OFF:
            step.budget = Budget(words.tier, words.cap, bool(words.draft))
        step.steers = step.mode is Mode.ON and not forced
        self._next_mode = self.asked = Mode(words.mode)
        if words.news:
            text = self.agreement.on_text(None if news is None else news.text, words.news)
            if news is None:
                now = step.in_force
                news = self.bind(parse(text.decode(), self.settings.policy), text, now.version + 1, now.geometry)
            # It may have been offered before the one that is now in force was taken.
            self._next = news._replace(version=step.in_force.version + 1)
            # A policy that was tuned again deserves another try after a fall-back.
            self._next_mode = self.asked = self.configured if self.asked is Mode.OFF else self.asked

    def switch(self, mode: Mode) -> None:
        """The operator's mode, from the next step on. Every rank is told before the same step."""
        self.configured = self.asked = self._next_mode = mode
        self.resting = False

    def finish(self) -> Step | None:
        """Ends the step; its record goes on with the results."""
        step, self.step = self.step, None
        return step

    def observe(self, step: Step, accept_lens: torch.Tensor, cap_lens: torch.Tensor | None) -> None:
        """Takes a step's results, which upstream has on the host by now.

        Args:
            accept_lens: int32 [R], tokens of the round, the target's own included.
            cap_lens: int32 [R], verify lengths, anchors included; None where whole blocks were verified.
        """
        ended_s, elapsed_s = self._end(step.ended_s, step.after_idle)
        if not self.observers and not self.recorders:
            return
        accepted = accept_lens.numpy() - 1
        verified = np.full_like(accepted, self.gamma) if cap_lens is None else cap_lens.numpy() - 1
        confidence = None
        if step.confidence is not None:
            confidence = step.confidence.numpy()
            if step.mode is not Mode.ON:
                confidence = tempered(confidence, step.in_force.artifact.sts_temperatures)
        outcome = Outcome(verified, accepted, confidence, ended_s, elapsed_s, self.steps)
        for observer in self.observers:
            observer(step, outcome)
        if step.rids:  # Otherwise it began before anybody recorded.
            for recorder in self.recorders:
                recorder((step, outcome))

    def begin_prefill(self, batch: Any) -> Prefill:
        """Notes the load of a prefill."""
        return Prefill(
            self,
            self.mode,
            self.in_force.version,
            self._queued(),
            batch.extend_num_tokens,
            sum(batch.prefix_lens),
            self._rids(batch),
            batch.after_idle_gap,
        )

    def observe_prefill(self, prefill: Prefill) -> None:
        """Takes note that a prefill's results are on the host."""
        ended_s, elapsed_s = self._end(prefill.ended_s, prefill.after_idle)
        if prefill.rids:
            for recorder in self.recorders:
                recorder(Prefilled(prefill, ended_s, elapsed_s, self.steps))

    def hold_up(self) -> None:
        """Says that the scheduler did other work until now, which is not the time of the step around it."""
        self._held_up_s = time.monotonic()

    def returned_s(self) -> float:
        """Now, where a forward that returns has its results, as on the CPU; NaN where they are to come."""
        return time.monotonic() if self._neutral.device.type == "cpu" else math.nan

    def _end(self, ended_s: float, after_idle: bool) -> tuple[float, float]:
        """When a step ended, now if ``ended_s`` is NaN, and how long after the one before; NaN after idling."""
        if math.isnan(ended_s):
            ended_s = time.monotonic()
        held_up = self._ended_s < self._held_up_s <= ended_s
        elapsed_s = math.nan if after_idle or held_up else ended_s - self._ended_s
        self._ended_s = ended_s
        self.steps += 1
        return ended_s, elapsed_s

    def _queued(self) -> int:
        """Waiting requests; looked up each time, as SGLang replaces the list whenever it admits some."""
        return 0 if self.scheduler is None else len(self.scheduler.waiting_queue)

    def _rids(self, batch: Any) -> tuple[str, ...]:
        return tuple(request.rid for request in batch.reqs) if self.recorders else ()

    def _turn(self) -> None:
        """Brings the agreed policy and mode into force."""
        if self._next is not None:
            self.in_force, self._next = self._next, None
        self.mode = self._next_mode
        now = self.in_force
        family, mode = now.artifact.policy.family, self.mode.name.lower()
        logger.info("DSpark policy %d (%s) of %s: %s", now.version, family, self.settings.policy, mode)
        steering = self.mode is Mode.ON
        # Compact without a table marks itself verify-all and would pass over every budget.
        self._planner._is_verify_all = self._upstream_verifies_all and not steering
        temperatures = self._planner._confidence_head.sts_temperatures
        if steering:
            temperatures.copy_(torch.tensor(now.artifact.sts_temperatures, dtype=torch.float32))
        else:
            temperatures.copy_(self._neutral)


def tempered(
    confidence: NDArray[np.float32], temperatures: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float32]:
    """Confidences that came without sequential temperature scaling, with it: the logit of each position over its own.

    Args:
        confidence: float32 [R, gamma].
    """
    inside = np.clip(confidence.astype(np.float64), 1e-7, 1 - 1e-7)
    logit = np.log(inside / (1 - inside))
    scaled: NDArray[np.float64] = 1 / (1 + np.exp(-logit / np.asarray(temperatures)))
    return scaled.astype(np.float32)
