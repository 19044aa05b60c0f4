"""Drive SGLang's own verify planner through decode steps, in the order in which its scheduler and worker call it."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from sglang_dspark.policy import Argmax, Fixed, Greedy, NoDraft, Policy, Static, Threshold
from sglang_dspark.serving import hooks, step_hooks
from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.steps import Step

CPU = torch.device("cpu")

FAMILIES: tuple[Policy, ...] = (
    NoDraft(),
    Fixed(length=3),
    Static(theta=0.4),
    Greedy(),
    Argmax(),
    Argmax(fill=True),
    Threshold(running=(1, 16), theta=(0.05, 0.6), weight=(1.0, 2.0), price_per_token=1e-4, max_length=5, fill=True),
    Threshold(running=(4,), theta=(0.9,), min_length=2, max_length=6, off_above=20),
)


@contextmanager
def hooks_on_planner() -> Iterator[None]:
    """Wraps the planner as ``HookRegistry`` does with the table of ``hooks``, and takes the wrappers off again."""
    from sglang.srt.plugins.hook_registry import HookType, _wrap_fn

    with ExitStack() as stack:
        for hook in hooks.policy_hooks():
            if hook.target.startswith(hooks.PLANNER) and not hook.target.endswith("__init__"):
                owner, _, name = hook.target.rpartition(".")
                made = pkgutil.resolve_name(owner)
                wrapped = _wrap_fn(getattr(made, name), hook.call, HookType(hook.kind))
                stack.enter_context(mock.patch.object(made, name, wrapped))
        yield


def upstream(method: Any) -> Any:
    """A method of SGLang as it was before any hook, bound to the same object."""
    return functools.partial(inspect.unwrap(method.__func__), method.__self__)


class Result(NamedTuple):
    """What a driven step decided.

    Attributes:
        lens: Verify lengths, anchors included; None where upstream verifies whole blocks without a layout.
    """

    step: Step | None
    budget: int | None
    layout: Any
    lens: list[int] | None


class Driver:
    """A scheduler and a worker around one planner."""

    def __init__(self, planner: Any, overlap: bool) -> None:
        self.planner, self.overlap = planner, overlap
        self.proposer = SimpleNamespace(
            _draft_sampler=None,
            gamma=planner.gamma,
            sample_from_anchor=True,
            draft_block_ids_view=lambda bs, device: torch.zeros((bs, planner.gamma + 1), dtype=torch.int64),
        )
        self.worker = SimpleNamespace(_verify_planner=planner, _proposer=self.proposer)
        self.drafts = 0

    @property
    def live(self) -> LiveServer:
        return self.planner.dspark

    def batch(self, slots: np.ndarray, context: np.ndarray | None, classes: list[str | None] | None) -> Any:
        n = len(slots)
        names = classes or [None] * n
        requests = [
            SimpleNamespace(rid=f"r{i}", sampling_params=SimpleNamespace(custom_params=name and {"slo_class": name}))
            for i, name in enumerate(names)
        ]
        lens = torch.full((n,), 100) if context is None else torch.from_numpy(context)
        rows = torch.from_numpy(slots.astype(np.int64))
        return SimpleNamespace(
            reqs=requests,
            seq_lens=lens,
            seq_lens_cpu=lens,
            req_pool_indices=rows,
            req_pool_indices_cpu=rows,
            spec_info=SimpleNamespace(verify_token_budget=None, bonus_tokens=torch.zeros(n, dtype=torch.int64)),
            forward_mode=SimpleNamespace(is_extend=lambda: False, is_idle=lambda: False),
            is_extend_in_batch=False,
            batch_size=lambda: n,
            spec_verify_tier_num_tokens=-1,
            after_idle_gap=False,
        )

    def step(
        self,
        slots: np.ndarray,
        confidence: np.ndarray,
        relayed: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        context: np.ndarray | None = None,
        classes: list[str | None] | None = None,
        future_map: Any = None,
    ) -> Result:
        """Runs one decode step.

        Args:
            slots: Row of each request in the pool.
            confidence: float32 [R, gamma], what the drafter will say, if it runs.
            relayed: With overlap, the confidences and generations that have reached the host; None for none.
            future_map: SGLang's ``FutureMap``, which relays them in place of ``relayed``.
        """
        now = self.batch(slots, context, classes)
        current = torch.from_numpy(confidence)
        on_publish = None
        if future_map is not None:
            now.spec_info.future_indices = now.req_pool_indices
            on_publish = functools.partial(future_map.publish, now.req_pool_indices)
            self.planner.prepare_verify_budget(now, future_map)
        elif self.overlap:
            resolved = None
            if relayed is not None:
                resolved = SimpleNamespace(
                    confidence=torch.from_numpy(relayed[0]), generation=torch.from_numpy(relayed[1])
                )
            relay = SimpleNamespace(confidence_relay=None, resolve_confidence_cpu=lambda batch: resolved)
            self.planner.prepare_verify_budget(now, relay)
        result = step_hooks.forward_decode(functools.partial(self._forward, current), self.worker, now, on_publish)
        return result.made._replace(step=result.__dict__.get("dspark_step"))

    def _forward(self, current: torch.Tensor, worker: Any, now: Any, on_publish: Any, *more: Any) -> Any:
        """The planner's part of ``DSparkWorkerV2._forward_decode``."""
        bs = len(now.reqs)
        proposal = step_hooks.propose(
            functools.partial(self._draft, current),
            self.proposer,
            batch=now,
            draft_input=now.spec_info,
            verify_window=None,
            bs=bs,
            device="cpu",
            target_model=None,
            sampling_info=None,
        )
        budget = self.planner.resolve_verify_token_budget(
            draft_input=now.spec_info,
            confidence=proposal.confidence,
            prefix_lens=now.seq_lens,
            req_pool_indices=now.req_pool_indices,
        )
        layout = self.planner.schedule_layout(
            req_pool_indices=now.req_pool_indices,
            prefix_lens=now.seq_lens,
            device=CPU,
            confidence=proposal.confidence,
            budget=budget,
            global_num_reqs=None,
            dp_tier_num_tokens=None,
        )
        lens = None if layout is None else layout.verify_lens.tolist()
        if on_publish is not None:
            on_publish(now.seq_lens, **({} if proposal.confidence is None else {"confidence": proposal.confidence}))
        return SimpleNamespace(made=Result(None, budget, layout, lens))

    def _draft(self, current: torch.Tensor, proposer: Any, **arguments: Any) -> Any:
        self.drafts += 1
        return SimpleNamespace(confidence=current)


def random_confidence(draw: np.random.Generator, requests: int, gamma: int) -> np.ndarray:
    """float32 [R, gamma]: hopeless to certain, every third time in quarters, so that many are equal."""
    found = draw.beta(draw.choice([0.3, 1.0, 5.0, 20.0]), 1.0, (requests, gamma)).astype(np.float32)
    return np.round(found * 4).astype(np.float32) / 4 if draw.random() < 0.3 else found
