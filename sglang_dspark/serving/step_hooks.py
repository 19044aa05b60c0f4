"""The functions that SGLang calls in a decode step or prefill; ``hooks`` lists where each is installed.

A decode step is one :class:`Step`. It starts in ``prepare_verify_budget`` with overlap scheduling and at the start of
``_forward_decode`` without it, where its budget is computed and agreed; it then travels with the batch, the planner
and the result, and the later hooks apply its budget.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sglang_dspark.errors import InputError, end
from sglang_dspark.policy import Budget
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.policy.lag import carry
from sglang_dspark.serving import observers, settings
from sglang_dspark.serving.bound_rule import BoundPolicy, Lagged
from sglang_dspark.serving.classes import read_keys
from sglang_dspark.serving.lengths import verify_lengths
from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.live_policy import LivePolicy
from sglang_dspark.serving.owners import Owners
from sglang_dspark.serving.steps import Geometry, Mode, Prefill, Step

_ROWS = np.arange(MAX_REQUESTS, dtype=np.int64)


def attach(result: None, planner: Any, **arguments: Any) -> None:
    """After ``DSparkVerifyPlanner.__init__``: bind the policy to the planner, or end the process in one line."""
    chosen = settings.current()
    if chosen is None or planner._budget_planner is None:
        return
    try:
        text = Path(chosen.policy).read_bytes()
    except OSError:
        text = b""  # Not what rank 0 has, or not an artifact: in either case all ranks stop.
    try:
        policy = LivePolicy(chosen, text, planner, planner._tp_sync._tp_group, read_keys(chosen.class_keys))
    except InputError as error:
        end("sglang-dspark", error)
    on_cpu = torch.device(planner.device).type == "cpu"
    planner.dspark = LiveServer(chosen, policy, leads=policy.agreement.leads, gamma=policy.gamma, on_cpu=on_cpu)


def attach_scheduler(result: None, scheduler: Any) -> None:
    """After ``Scheduler.init_internal_state``: give the scheduler its live state, and start the observers.

    The live state is its planner's, or one without a policy where no planner follows one: a server that verifies whole
    blocks, or decodes without speculation.
    """
    live = of(getattr(scheduler, "draft_worker", None))
    if live is None:
        if (chosen := settings.current()) is None:
            return
        from sglang.srt.runtime_context import get_spec

        # The flags as SGLang resolved them: ``server_args`` keeps those that the operator gave.
        block = 1 if scheduler.draft_worker is None else int(get_spec().speculative_num_draft_tokens)
        live = LiveServer(
            chosen,
            None,
            leads=scheduler.tp_group.rank_in_group == 0,
            gamma=block - 1,
            on_cpu=str(scheduler.server_args.device) == "cpu",
        )
    live.scheduler = scheduler
    scheduler.dspark = live
    scheduler.dspark_observers = observers.start(live, scheduler)


def of(worker: Any) -> LiveServer | None:
    """The live state that a ``DSparkWorkerV2`` has with its policy, if it has one."""
    return getattr(worker.__dict__.get("_verify_planner"), "dspark", None) if worker is not None else None


def geometry(planner: Any) -> Geometry:
    """The graphs that verification replays: none where the attention backend does not replay packed rows.

    SGLang captures them all the same (``ragged_capture_num_tokens``), and then runs every verification eagerly
    (``_can_run_ragged_verify_graph``).
    """
    runner = planner.model_runner.decode_cuda_graph_runner
    if runner is None or not runner.ragged_verify_mode or not runner.attn_backend.supports_ragged_verify_graph:
        return Geometry()
    return Geometry(tuple(runner.capture_num_tokens), min(runner.max_bs, MAX_REQUESTS))


def prepare_verify_budget(original: Callable[..., None], planner: Any, batch: Any, future_map: Any) -> None:
    """Around the budget of a step with overlap: start the step, let upstream resolve the confidences, agree."""
    live: LiveServer | None = getattr(planner, "dspark", None)
    draft_input = batch.spec_info
    if (
        live is None
        or live.policy is None
        or draft_input is None
        or batch.forward_mode.is_extend()
        or batch.is_extend_in_batch
    ):
        original(planner, batch, future_map)
        return
    step = batch.dspark_step = live.begin_step(batch, geometry(planner))
    if future_map.confidence_relay is not None:
        direct = future_map.fwd_prepare_d2h_stream is None or future_map.publish_ready is None
        step.publications_ago = 1 if direct else _upstream().CONFIDENCE_RELAY_RING_LAG
    with running(planner, step):
        original(planner, batch, future_map)
    # Without a ready relay upstream computes no budget; a request without a confidence counts as survival 1.
    live.policy.compute_budget(step, None)
    step.upstream_cap = draft_input.verify_token_budget if step.mode is not Mode.ON else None
    live.policy.agree(step, planner._budget_planner.forced_budget_frac is not None)
    if step.steers and step.budget is not None:
        draft_input.verify_token_budget = step.budget.cap
        batch.spec_verify_tier_num_tokens = len(batch.reqs) + step.budget.cap


def forward_decode(
    original: Callable[..., Any],
    worker: Any,
    batch: Any,
    on_publish: Any,
    grammar_barrier: Any = None,
    coordination_plan: Any = None,
) -> Any:
    """Around a decode step: decide it where ``prepare_verify_budget`` has not, and attach it to its result."""
    live = of(worker)
    if live is None or live.policy is None or batch.forward_mode.is_idle():
        return original(worker, batch, on_publish, grammar_barrier, coordination_plan)
    planner = worker._verify_planner
    step: Step | None = batch.__dict__.get("dspark_step")
    if step is None:
        step = batch.dspark_step = live.begin_step(batch, geometry(planner))
        live.policy.compute_budget(step, _carried(planner, batch.req_pool_indices_cpu))
        live.policy.agree(step, planner._budget_planner.forced_budget_frac is not None)
    slots = batch.req_pool_indices_cpu.numpy()
    with running(planner, step):
        result = original(worker, batch, on_publish, grammar_barrier, coordination_plan)
    step.ended_s = live.clock.returned_s()
    if step.drafted:
        _note_owners(live, planner, slots)
    del batch.dspark_step
    result.dspark_live, result.dspark_step = live, step
    return result


@contextmanager
def running(planner: Any, step: Step) -> Iterator[None]:
    """Give SGLang's planner the step, for those of its calls that have neither batch nor result."""
    planner.dspark_step = planner._budget_planner.dspark_step = step
    planner._budget_planner.dspark = planner.dspark
    try:
        yield
    finally:
        planner.dspark_step = planner._budget_planner.dspark_step = None


def _note_owners(live: LiveServer, planner: Any, slots: NDArray[np.int64]) -> None:
    """After a step that drafted, and published its confidences."""
    generation = planner.model_runner.req_to_token_pool.req_generation.numpy()
    if live.owners is None:
        live.owners = Owners(len(generation), _upstream().CONFIDENCE_RELAY_RING_LAG)
    live.owners.publish(slots, generation[slots])


def compute_budget(
    original: Callable[..., int],
    host: Any,
    *,
    confidence: torch.Tensor,
    generation: torch.Tensor,
    current_generation: torch.Tensor,
    req_pool_indices_cpu: torch.Tensor,
) -> int:
    """Around the budget: the policy's, from upstream's lag ring; upstream's own where that is what is applied."""
    step: Step | None = host.__dict__.get("dspark_step")
    live: LiveServer | None = host.__dict__.get("dspark")
    upstream = step is None or step.mode is not Mode.ON or host.forced_budget_frac is not None
    own = generation
    if live is not None and live.owners is not None and step is not None and step.publications_ago:
        own = torch.from_numpy(live.owners.own(req_pool_indices_cpu.numpy(), generation.numpy(), step.publications_ago))
    if live is not None and live.policy is not None and step is not None and (not upstream or step.mode is Mode.SHADOW):
        if host.carry_steps:
            host._ensure_carry(gamma=confidence.shape[1])
            lagged = _in_ring(host, req_pool_indices_cpu, current_generation)
        else:
            lagged = Lagged(confidence.numpy(), own.numpy(), _ROWS[: len(confidence)], current_generation.numpy())
        live.policy.compute_budget(step, lagged)
    if upstream or step is None or step.in_force is None:
        return original(
            host,
            confidence=confidence,
            generation=generation,
            current_generation=current_generation,
            req_pool_indices_cpu=req_pool_indices_cpu,
        )
    if host.carry_steps:
        place = host._carry_pos % host.carry_steps
        carry(
            host._carry_confidence[place].numpy(),
            host._carry_generation[place].numpy(),
            req_pool_indices_cpu.numpy(),
            confidence.numpy(),
            own.numpy(),
        )
        host._carry_pos += 1
    if step.budget is None:
        return 0  # Not rank 0, whose budget is not known here yet.
    requests = len(step.load.context)
    host.last_decision = _upstream().VerifyBudgetDecision(
        budget=step.budget.cap,
        predicted_step_seconds=step.in_force.bound.believed_s(requests, requests + step.budget.cap),
    )
    return step.budget.cap


@functools.cache
def _upstream() -> Any:
    from sglang.srt.speculative.dspark_components import dspark_planner

    return dspark_planner


def _carried(planner: Any, rows: torch.Tensor) -> Lagged | None:
    """The lagged confidences of a step that has not drafted yet: all that upstream's ring will give it."""
    host = planner._budget_planner
    if host._carry_confidence is None:
        return None
    return _in_ring(host, rows, planner.model_runner.req_to_token_pool.req_generation[rows])


def _in_ring(host: Any, rows: torch.Tensor, current_generation: torch.Tensor) -> Lagged:
    place = host._carry_pos % host.carry_steps
    return Lagged(
        host._carry_confidence[place].numpy(),
        host._carry_generation[place].numpy(),
        rows.numpy(),
        current_generation.numpy(),
    )


class Steering(NamedTuple):
    """A step in which the policy's budget is applied."""

    step: Step
    budget: Budget
    policy: BoundPolicy


def steering(planner: Any) -> Steering | None:
    """The running step, where the policy's budget is applied; None while upstream's is."""
    step: Step | None = planner.__dict__.get("dspark_step")
    if step is None or not step.steers or step.budget is None or step.in_force is None:
        return None
    return Steering(step, step.budget, step.in_force)


def resolve_verify_token_budget(
    original: Callable[..., int | None], planner: Any, *, draft_input: Any, **arguments: Any
) -> int | None:
    """Around the step's budget: the decision, in steps without a draft too. Upstream's call feeds its lag ring."""
    budget = original(planner, draft_input=draft_input, **arguments)
    if (applied := steering(planner)) is None:
        step: Step | None = planner.__dict__.get("dspark_step")
        if step is not None and step.upstream_cap is None:
            step.upstream_cap = budget
        return budget
    draft_input.verify_token_budget = applied.budget.cap
    return applied.budget.cap


def schedule_verify_lens(
    original: Callable[..., torch.Tensor | None],
    planner: Any,
    *,
    req_pool_indices: torch.Tensor,
    device: torch.device,
    confidence: torch.Tensor | None,
    **arguments: Any,
) -> torch.Tensor | None:
    """Around the lengths: the policy's, anchors included, as upstream counts them.

    Returns:
        int32 [R] on the device.
    """
    if (applied := steering(planner)) is None:
        return original(planner, req_pool_indices=req_pool_indices, device=device, confidence=confidence, **arguments)
    step, budget, policy = applied
    if confidence is None or not budget.draft:
        return torch.ones(len(req_pool_indices), dtype=torch.int32, device=device)
    lens = verify_lengths(policy.bound.rule, confidence, step.load, budget.cap).to(device)
    from sglang.srt.speculative.spec_tp_sync import SpecTpSyncSite

    planner._tp_sync.sync(SpecTpSyncSite.DSPARK_PLAN, lens)
    return lens


def schedule_layout(original: Callable[..., Any], planner: Any, **arguments: Any) -> Any:
    """Around the layout: past the captured graphs, upstream verifies whole blocks; shorter ones run eagerly too."""
    applied = steering(planner)
    requests = len(arguments["req_pool_indices"])
    if applied is None or not applied.policy.bound.shortens_eagerly(requests, applied.budget.cap):
        layout = original(planner, **arguments)
        step: Step | None = planner.__dict__.get("dspark_step")
        if step is not None and step.in_force is not None and step.in_force.geometry.tiers and layout is not None:
            step.tier = layout.graph_num_tokens
        return layout
    budget = applied.budget
    from sglang.srt.speculative.ragged_verify import RaggedVerifyLayout

    lens = planner._schedule_verify_lens(
        req_pool_indices=arguments["req_pool_indices"],
        prefix_lens=arguments["prefix_lens"],
        device=arguments["device"],
        confidence=arguments["confidence"],
        budget=budget.cap,
    )
    lens_cpu = lens.tolist() if budget.draft else [1] * requests
    return RaggedVerifyLayout.from_verify_lens(
        verify_lens_cpu=lens_cpu, device=arguments["device"], grid=[sum(lens_cpu)]
    )


def begin_epilogue_step(
    original: Callable[..., None], epilogue: Any, verify_lens: torch.Tensor | None, armed: bool
) -> None:
    """Around the graph epilogue's staging: an eager step of more rows than it has is not staged."""
    if verify_lens is not None and len(verify_lens) > epilogue.max_bs:
        verify_lens, armed = None, False
    original(epilogue, verify_lens, armed=armed)


def propose(original: Callable[..., Any], proposer: Any, *, batch: Any, **arguments: Any) -> Any:
    """Around the draft: none where the policy rests the drafter; its tokens are then never verified."""
    step: Step | None = batch.__dict__.get("dspark_step")
    if step is None:
        return original(proposer, batch=batch, **arguments)
    if step.steers and step.budget is not None and not step.budget.draft:
        return _no_draft(proposer, batch=batch, **arguments)
    proposal = original(proposer, batch=batch, **arguments)
    step.drafted = True
    confidence = proposal.confidence
    if step.keeps_confidence and confidence is not None:
        # A draft graph writes the next step's confidences to the same place.
        step.confidence = confidence if confidence.device.type == "cpu" else confidence.clone()
    return proposal


def _no_draft(
    proposer: Any, *, batch: Any, draft_input: Any, bs: int, sampling_info: Any, anchor_prepared: bool = False, **_: Any
) -> Any:
    """A proposal that cost nothing: the anchors, and in place of drafts token 0, drafted with certainty.

    In a greedy batch it counts as folded where drafts are: the verify graph's own acceptance then ends the step.
    """
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftProposal, resolve_draft_params

    device = batch.seq_lens.device
    ids = proposer.draft_block_ids_view(bs=bs, device=device)
    if not anchor_prepared:
        ids[:, 0].copy_(draft_input.bonus_tokens.view(-1))
    params = resolve_draft_params(sampling_info=sampling_info, bs=bs, device=device)
    block = _block_of_rest()(
        draft_tokens=torch.zeros((bs, proposer.gamma), dtype=torch.int64, device=device),
        corrected_logits=None,
        greedy_mask=params.greedy_mask,
        temperatures=params.temperatures,
        greedy_draft=True,
    )
    greedy = sampling_info is None or sampling_info.is_all_greedy
    return DraftProposal(
        draft_block_ids=ids if proposer.sample_from_anchor else ids[:, : proposer.gamma].contiguous(),
        draft_block=block,
        folded=bool(greedy and proposer._draft_sampler is not None),
    )


@functools.cache
def _block_of_rest() -> Any:
    """A subtype of SGLang's ``DraftBlockResult`` by which acceptance recognises a step without a draft."""
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftBlockResult

    return type("BlockOfRest", (DraftBlockResult,), {}, frozen=True)


def accept_draft_tokens(original: Callable[..., Any], **given: Any) -> Any:
    """Around acceptance: in a step without a draft only the anchors' rows, which are all that was verified.

    SGLang would make a one-hot distribution of every draft, and softmaxes of rows that it does not read.
    """
    block = given["draft_block"]
    # Block-wise rejection makes no such distributions and takes whole blocks only.
    if not isinstance(block, _block_of_rest()) or given.get("rejection_noise") is not None:
        return original(**given)
    import msgspec

    requests = len(given["candidates"])
    rows = given["target_logits"].view(requests, given["verify_num_draft_tokens"], -1)
    return original(
        **given
        | {
            "candidates": given["candidates"][:, :1],
            "target_logits": rows[:, 0],
            "draft_block": msgspec.structs.replace(block, draft_tokens=block.draft_tokens[:, :0]),
            "gamma": 0,
            "verify_num_draft_tokens": 1,
            "cutoff_layout": None,
        }
    )


def run_batch(original: Callable[..., Any], scheduler: Any, batch: Any, *arguments: Any, **keywords: Any) -> Any:
    """Around a batch: start a prefill, or a decode step of a server without a policy, and attach it to the result."""
    live: LiveServer | None = scheduler.__dict__.get("dspark")
    if live is None or batch.forward_mode.is_idle() or batch.forward_mode.is_prebuilt():
        return original(scheduler, batch, *arguments, **keywords)
    begun: Step | Prefill | None = None
    if batch.forward_mode.is_extend():
        begun = live.begin_prefill(batch)
    elif live.policy is None and batch.forward_mode.is_decode():
        begun = batch.dspark_step = live.begin_step(batch)
    result = original(scheduler, batch, *arguments, **keywords)
    if begun is not None:
        begun.ended_s = live.clock.returned_s()
        batch.__dict__.pop("dspark_step", None)
        result.dspark_live, result.dspark_step = live, begun
    return result


def copy_to_cpu(result: Any, *arguments: Any, **keywords: Any) -> None:
    """Before the results are copied: the confidences go with them, behind the same event."""
    step: Step | None = result.__dict__.get("dspark_step")
    if isinstance(step, Step) and step.confidence is not None and step.confidence.device.type != "cpu":
        from sglang.srt.managers.utils import _async_d2h

        step.confidence = _async_d2h(step.confidence)


def process_result(processor: Any, batch: Any, result: Any) -> None:
    """Before a result is processed: wait for it, as upstream does next, and end its step or prefill."""
    begun: Step | Prefill | None = result.__dict__.get("dspark_step")
    if begun is None:
        return
    live: LiveServer = result.dspark_live
    if result.copy_done is not None:
        result.copy_done.synchronize()
    if isinstance(begun, Prefill):
        live.end_prefill(begun)
    else:
        live.end_step(begun, result.accept_lens, result.cap_lens)
