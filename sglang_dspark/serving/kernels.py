"""Our kernels in SGLang: drafting, confidence, verify lengths and acceptance.

``ours`` installs them after a start-up check against their references on the device; ``auto`` does so only where a
bench has also shown that they are faster on that GPU (``python -m dspark_kernels.bench`` writes its result). What they
do not cover is SGLang's, with one line in the log. On a CPU without Triton's interpreter the references run.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from dspark_kernels import acceptance, confidence, draft, launch_configs, verify_lengths
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.heads import MarkovHead, Shard
from dspark_kernels.interpreter import launches
from dspark_kernels.markov_finish import DraftOutputs
from dspark_kernels.startup import bench_results, compile_check, selfcheck
from dspark_kernels.startup.served_shapes import ServedShapes, absent_ranks
from sglang_dspark.errors import InputError, end
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.policy.record import SURVIVAL_FLOOR, Load, Rule
from sglang_dspark.policy.rule import limits
from sglang_dspark.serving import settings
from sglang_dspark.serving.agreement import Agreement

logger = logging.getLogger(__name__)

# SGLang's heads by module and class, which no subclass shares, and the kind of each.
HEADS: Final = {
    "sglang.srt.models.dspark.VanillaMarkov": "vanilla",
    "sglang.srt.models.dspark.GatedMarkovHead": "gated",
    "sglang.srt.models.dspark.RNNHead": "rnn",
    "sglang.srt.models.deepseek_v4_dspark.DSparkV4MarkovHead": "vanilla",
}


class Installed:
    """The kernels in use in a scheduler process, and the tensors that captured graphs read and write.

    Attributes:
        stages: Of ``dspark_kernels.startup.selfcheck.STAGES``, those in use.
        markov_head: SGLang's head that ``head`` was made of.
        head: Its weights; of ``W2`` the rows of ``shard``.
        shard: The part of the vocabulary that this rank's base logits are of; None for all.
        vocab: Tokens of all shards.
        seed: Of all draws.
        accepts: Whether acceptance may be handed what it computes the proposal from in place of kept logits.
        compact: Whether the target's logits of unverified drafts do not exist.
    """

    def __init__(self, proposer: Any, stages: frozenset[str], head: MarkovHead, shard: Shard | None = None) -> None:
        from sglang.srt.speculative.ragged_verify import RaggedVerifyMode, read_ragged_verify_mode

        self.stages = stages
        self.vocab = head.w2.shape[0]
        self.shard = shard
        self.columns = slice(self.vocab) if shard is None else shard.columns
        self.head = head._replace(w2=head.w2[self.columns])
        self.markov_head = proposer.draft_model.markov_head
        args = proposer.draft_model_runner.server_args
        self.block_verification = bool(args.speculative_use_block_verification)
        self.seed = int(proposer.noise.key)
        self.compact = read_ragged_verify_mode() is RaggedVerifyMode.COMPACT
        device, gamma = torch.device(proposer.draft_model_runner.device), proposer.gamma
        self.requests = torch.zeros(MAX_REQUESTS, dtype=torch.int64, device=device)
        self.positions = torch.zeros(MAX_REQUESTS, dtype=torch.int64, device=device)
        self._outputs = draft.make_outputs(head, MAX_REQUESTS, gamma, device)

    @property
    def accepts(self) -> bool:
        return "accept" in self.stages and not self.block_verification and not _checks_logits()

    def outputs(self, requests: int) -> DraftOutputs:
        """Where a block of ``requests`` is drafted: probabilities in place, tokens in a tensor of their own."""
        all_rows = self._outputs
        return DraftOutputs(
            torch.empty_like(all_rows.tokens[:requests]),
            all_rows.log_probs[:requests],
            all_rows.log_sums[:requests],
            None if all_rows.latents is None else all_rows.latents[:requests],
            None if all_rows.states is None else torch.empty_like(all_rows.states[:, :requests]),
        )


_installed: Installed | None = None


def installed(stage: str) -> Installed | None:
    """The kernels in use, if ``stage`` is one of them."""
    return _installed if _installed is not None and stage in _installed.stages else None


def _checks_logits() -> bool:
    """Whether SGLang inspects the step's logits (``sglang.srt.utils.invariants``), which must then exist."""
    from sglang.srt.environ import envs
    from sglang.srt.utils.invariants import InvariantCheckLevel, resolve_level

    return bool(resolve_level() > InvariantCheckLevel.OFF or envs.SGLANG_ENABLE_NAN_LOGITS_CHECK.get())


def install(result: None, proposer: Any, **arguments: Any) -> None:
    """After ``DraftBlockProposer.__init__``, before graphs are captured: choose on all ranks which stages are ours."""
    global _installed
    _installed = None
    choice = settings.kernels()
    if choice is None:
        return
    chosen = "as requested" if choice == "upstream" else _choose(proposer, str(choice))
    try:
        # Every rank takes part, even without stages: the others wait for it.
        stages = _on_every_rank(frozenset() if isinstance(chosen, str) else chosen[0], proposer._tp_sync._tp_group)
    except InputError as error:
        end("sglang-dspark", error)
    if isinstance(chosen, str):
        logger.info("sglang-dspark: kernels (%s): SGLang's own; %s", choice, chosen)
        return
    if not stages:
        logger.info("sglang-dspark: kernels (%s): SGLang's own; no stage is ours on every rank", choice)
        return
    _installed = Installed(proposer, stages, *chosen[1:])
    how = "kernels" if launches(_installed.requests) else "their references, which is no faster"
    logger.info("sglang-dspark: kernels (%s): ours (%s) for %s", choice, how, ", ".join(sorted(stages)))


def _on_every_rank(mine: frozenset[str], group: Any) -> frozenset[str]:
    """The stages that all ranks of a group would use.

    Ours broadcasts a block of drafts once, SGLang's once a position: ranks that differ would wait for each other.
    """
    if "draft" not in mine:
        # Acceptance reads what our draft writes beside the kept logits.
        mine -= {"accept"}
    names = sorted(selfcheck.STAGES)
    holds = Agreement(group).on_each([name in mine for name in names])
    common = frozenset(name for i, name in enumerate(names) if all(rank[i] for rank in holds))
    for name in sorted(mine - common):
        without = next(rank for rank, held in enumerate(holds) if not held[names.index(name)])
        logger.warning("sglang-dspark: kernels: %s is SGLang's on rank %d, and so on all ranks", name, without)
    return common


def _choose(proposer: Any, choice: str) -> tuple[frozenset[str], MarkovHead, Shard | None] | str:
    """The stages to use, the head and its shard of the vocabulary, or why there are none."""
    head = made_head(proposer.draft_model.markov_head)
    if isinstance(head, str):
        return head
    if getattr(proposer.draft_model_runner.server_args, "enable_nvidia_megakernel", False):
        return "the NVIDIA megakernel drafts"
    device = torch.device(proposer.draft_model_runner.device)
    target = launch_configs.covering(device)
    if target is None:
        return f"{torch.cuda.get_device_name(device)} is no target of ours ({', '.join(launch_configs.TARGETS)})"
    shard, stages = made_shard(proposer), frozenset(selfcheck.STAGES)
    served = _served(proposer, head, None if isinstance(shard, str) else shard)
    if choice == "auto":
        stages = bench_results.wins(device, served)
        if not stages:
            return (
                f"no bench has shown ours to be faster here for this draft ({bench_results.path()}); run "
                f"python -m dspark_kernels.bench --requests {served.requests} {served.flags()}"
            )
    if isinstance(shard, str):
        if sharded := sorted(stages & {"draft", "accept"}):
            logger.warning(
                "sglang-dspark: kernels: %s left to SGLang: each rank's draft head has a shard of the vocabulary, and "
                "%s; SGLANG_DSPARK_OPT_MARKOV_W2_TP_SHARD=0 gives each all of it",
                " and ".join(sharded),
                shard,
            )
        shard, stages = None, stages - {"draft", "accept"}
    if launches(torch.empty(0, device=device)):
        differing = selfcheck.differing(device, served)
        if differing:
            logger.warning("sglang-dspark: kernels: not what the reference computes: %s", "; ".join(differing.values()))
        stages -= differing.keys()
        if device.type == "cuda":
            started_s = time.monotonic()
            try:
                count = compile_check.compile_served(target, served, stages)
            except Exception as error:  # Whatever Triton raises: the other ranks wait for this one's answer.
                return f"they do not compile here ({type(error).__name__}: {error})"
            logger.info("sglang-dspark: kernels: %d compiled in %.0f s", count, time.monotonic() - started_s)
    return (stages, head, shard) if stages else "none passed the start-up check"


def _served(proposer: Any, head: MarkovHead, shard: Shard | None) -> ServedShapes:
    """The shapes and dtypes that this server launches kernels on, as far as known before graphs are captured."""
    from sglang.srt.environ import envs

    runner, markov_head = proposer.draft_model_runner, proposer.draft_model.markov_head
    args, rated = runner.server_args, proposer.draft_model.confidence_head
    logits = runner.dtype
    if type(markov_head).__name__ == "DSparkV4MarkovHead" and envs.SGLANG_DSPARK_FP32_LM_HEAD.get():
        logits = torch.float32
    requests = min(args.max_running_requests or MAX_REQUESTS, MAX_REQUESTS)
    hidden = runner.model_config.hidden_size if head.joint is None else head.split()[2].shape[1]
    lm_head = proposer.draft_model.lm_head
    padded = int(lm_head.num_embeddings_per_partition), int(lm_head.tp_size)
    return ServedShapes(
        head.kind,
        head.w2.shape[0],
        head.rank,
        hidden,
        proposer.gamma,
        requests,
        logits,
        head.w1.dtype,
        head.w2.dtype,
        markov_head.step_logits_dtype(logits),
        bias=rated is not None and rated.proj.bias is not None,
        markov=rated is not None and rated.with_markov,
        greedy=proposer._greedy_draft,
        stride=math.prod(padded) if shard is None else padded[0],
        target_stride=math.prod(padded),
        shard=None if shard is None else shard._replace(gather=absent_ranks(padded[1])),
    )


def made_head(markov_head: Any) -> MarkovHead | str:
    """SGLang's head in the kernels' form, or why they do not cover it."""
    made_of = type(markov_head)
    kind = HEADS.get(f"{made_of.__module__}.{made_of.__qualname__}")
    if kind is None:
        return f"a head of type {made_of.__name__} is not covered"
    projection = {"gated": "gate_proj", "rnn": "joint_proj"}.get(kind)
    joint = None if projection is None else getattr(markov_head, projection)
    head = MarkovHead(
        kind,  # type: ignore[arg-type]
        markov_head.markov_w1.weight.data,
        markov_head.markov_w2.weight.data,
        None if joint is None else joint.weight.data,
        None if joint is None else joint.bias.data,
    )
    try:
        head.check()
    except ValueError as error:
        return str(error)
    return head


def made_shard(proposer: Any) -> Shard | str | None:
    """The part of the vocabulary that a rank drafts from, None for all of it, or why kernels do not cover it."""
    model = proposer.draft_model
    if (given := model.markov_head.vocab_shard) is None:
        return None
    ranks, agreeing = int(model.lm_head.tp_size), int(proposer._tp_sync._tp_group.world_size)
    if ranks != agreeing:
        return f"{ranks} ranks share the vocabulary where {agreeing} draft together"

    def gather(values: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = given.gather.gather_stacked(values.view(1, -1))
        return gathered.view(ranks, *values.shape)

    shard = Shard(int(given.start), int(model.lm_head.shard_indices.org_vocab_end_index), gather)
    if shard.end <= shard.start:
        return "a rank has none of its tokens"
    try:
        shard.check("shard", shard.end - shard.start)
    except ValueError as error:
        return str(error)
    return shard


def note(proposer: Any, *, batch: Any, **arguments: Any) -> None:
    """Before ``DraftBlockProposer.propose``: write the names of each row's draws to where captured graphs read them."""
    if (ours := _installed) is None or not batch.reqs:
        return
    names = torch.tensor([_name(request) for request in batch.reqs], dtype=torch.int64)
    if ours.requests.is_cuda:
        names = names.pin_memory()
    ours.requests[: len(names)].copy_(names, non_blocking=True)
    ours.positions[: len(names)].copy_(batch.seq_lens)


def _name(request: Any) -> int:
    """A number for a request's id, the same in every process."""
    known: int | None = request.__dict__.get("dspark_name")
    if known is None:
        digest = hashlib.blake2b(str(request.rid).encode(), digest_size=8).digest()
        known = request.dspark_name = int.from_bytes(digest, "little", signed=True)
    return known


def draft_markov_block(
    original: Callable[..., tuple[torch.Tensor, Any]],
    *,
    logits_out: torch.Tensor | None = None,
    greedy_draft: bool = False,
    **given: Any,
) -> tuple[torch.Tensor, Any]:
    """Around the block: the drafted tokens, and for acceptance either kept logits or a ``KeptProposal``.

    A draft graph has a buffer for kept logits, and they go there. Otherwise they are kept where that moves fewer bytes.
    Of a shard of the vocabulary each rank keeps its own columns, unless SGLang's acceptance reads them all.
    """
    ours = installed("draft")
    markov_head, base_logits = given["markov_head"], given["base_logits"]
    requests, gamma, width = base_logits.shape
    own = 0 if ours is None else ours.head.w2.shape[0]
    if ours is None or markov_head is not ours.markov_head or width < own or not 0 < requests <= MAX_REQUESTS:
        return original(logits_out=logits_out, greedy_draft=greedy_draft, **given)
    base_logits = base_logits[:, :, :own]
    empty = functools.partial(
        torch.empty, dtype=markov_head.step_logits_dtype(base_logits.dtype), device=base_logits.device
    )
    kept = None if greedy_draft else logits_out
    if (
        not greedy_draft
        and kept is None
        and not (ours.accepts and not draft.worth_keeping(requests, gamma, ours.head.rank))
    ):
        kept = empty((requests, gamma, ours.vocab))
    written = None if kept is None else kept[:, :, ours.columns]
    padded = None
    if kept is not None and ours.shard is not None and not ours.accepts:
        # Ranks exchange as many columns each.
        padded = empty((requests, gamma, width))
        written = padded[:, :, :own]
    temperatures = given["step_temperatures"]
    anchors = given["anchor_tokens"].long().contiguous()
    batch = DraftBatch(
        ours.head,
        base_logits,
        anchors,
        None if ours.head.kind == "vanilla" else given["draft_hidden"],
        temperatures.contiguous(),
        ours.requests[:requests],
        ours.positions[:requests],
        given["noise"].key,
    )
    outputs = draft.draft_block(
        batch, sample=not greedy_draft, shard=ours.shard, kept=written, outputs=ours.outputs(requests)
    )
    if kept is not None and padded is not None:
        gathered = markov_head.vocab_shard.gather(padded.view(requests * gamma, width))
        kept.copy_(gathered[:, : ours.vocab].view(kept.shape))
    from sglang.srt.speculative.spec_tp_sync import SpecTpSyncSite

    tokens = given["tp_sync"].sync(SpecTpSyncSite.DSPARK_DRAFT, outputs.tokens)
    if greedy_draft:
        return tokens, None
    given["noise"].offset.add_(1)
    if kept is not None:
        return tokens, kept
    return tokens, KeptProposal(
        base_logits, outputs.log_sums, outputs.log_probs, temperatures, ours.head, outputs.latents, anchors, ours.shard
    )


def predict(
    original: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    head: Any,
    features: torch.Tensor,
    *,
    anchor_tokens: torch.Tensor,
    draft_tokens: torch.Tensor,
    markov_head: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Around ``DSparkConfidenceHead.predict``: confidence and logit, [R, gamma]."""
    ours = installed("confidence")
    if ours is None or markov_head is not ours.markov_head:
        return original(head, features, anchor_tokens=anchor_tokens, draft_tokens=draft_tokens, markov_head=markov_head)
    requests, gamma = draft_tokens.shape
    rated = confidence.confidence_block(
        features.reshape(requests, gamma, -1),
        anchor_tokens.long().contiguous(),
        draft_tokens.contiguous(),
        head.proj.weight.data.view(-1),
        None if head.proj.bias is None else head.proj.bias.data,
        head.sts_temperatures.reshape(-1),
        ours.head.w1 if head.with_markov else None,
    )
    return rated.confidence, rated.logits.to(head.proj.weight.dtype)


def schedule(original: Callable[..., torch.Tensor], cls: Any, **arguments: Any) -> torch.Tensor:
    """Around ``ScheduleVerifyLensTopk.execute``: int32 [R], anchors included."""
    given, budget, rules = arguments["confidence"], arguments["budget"], arguments["cfg"]
    whole = rules.min_verify_len == 1 and rules.resolved_max_verify_len() == given.shape[1] + 1
    if installed("lengths") is None or not whole or given.shape[0] > MAX_REQUESTS:
        return original(cls, **arguments)
    return verify_lengths.verify_lengths(
        given.float().contiguous(), int(budget), floor=rules.survival_eps, with_anchor=True
    )


def policy_lengths(rule: Rule, given: torch.Tensor, load: Load, cap: int) -> torch.Tensor:
    """A policy's lengths, int32 [R], anchors included: ``sglang_dspark.policy.lengths`` in one launch."""
    record = rule[0]
    extra: dict[str, Any] = {}
    if record["price_per_token"] or not (record["weight"] == 1.0).all():
        prices = _on_device(record["weight"].tobytes(), float(record["price_per_token"]), given.device)
        extra = {
            "weights": prices[0],
            "price": prices[1],
            "classes": _moved(load.slo_class, given.device),
            "context": _moved(load.context, given.device),
        }
    least, most = limits(rule, len(given))
    return verify_lengths.verify_lengths(
        given.float().contiguous(),
        cap,
        floor=float(SURVIVAL_FLOOR),
        least=least,
        most=most,
        with_anchor=True,
        **extra,
    )


@functools.lru_cache(maxsize=4)
def _on_device(weights: bytes, price: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    held = torch.from_numpy(np.frombuffer(weights, np.float64).copy())
    return held.to(device), torch.tensor([price], dtype=torch.float64, device=device)


def _moved(values: Any, device: torch.device) -> torch.Tensor:
    held = torch.from_numpy(np.ascontiguousarray(values, np.int64))
    return held.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else held.to(device)


def accept_draft_tokens(
    original: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]], **given: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Around acceptance: accepted drafts int32 [R], the token after them int64 [R], and what the cut took int32 [R].

    All-greedy batches stay SGLang's: nothing of ours would move fewer bytes.
    """
    ours = installed("accept")
    candidates, draft_block, sampling_info = given["candidates"], given["draft_block"], given["sampling_info"]
    requests, gamma, cutoff_layout = candidates.shape[0], given["gamma"], given.get("cutoff_layout")
    if (
        ours is None
        or ours.block_verification
        or requests > MAX_REQUESTS
        or gamma == 0
        or sampling_info is None
        or sampling_info.is_all_greedy
    ):
        return original(**given)
    device = candidates.device
    greedy = draft_block.greedy_mask
    temperatures = torch.where(greedy, 0.0, sampling_info.temperatures.view(-1)[:requests].float())
    verified = None if cutoff_layout is None else cutoff_layout.verify_lens[:requests].to(torch.int32) - 1
    lengths = torch.full((requests,), gamma, dtype=torch.int32, device=device)
    if verified is not None and ours.compact:
        lengths = verified
    drafts = candidates[:, 1:].long().contiguous()
    top_ks = top_ps = None
    if sampling_info.need_top_k_sampling:
        top_ks = sampling_info.top_ks.view(-1)[:requests].int().contiguous()
    if sampling_info.need_top_p_sampling:
        top_ps = sampling_info.top_ps.view(-1)[:requests].float().contiguous()
    batch = VerifiedBatch(
        given["target_logits"],
        torch.arange(requests, device=device) * given["verify_num_draft_tokens"],
        lengths,
        drafts,
        _proposal(ours, draft_block, greedy, candidates),
        temperatures,
        ours.requests[:requests],
        ours.positions[:requests],
        ours.seed,
        top_ks,
        top_ps,
    )
    accepted = acceptance.accept(batch)
    if verified is None or ours.compact:
        return accepted.lengths, accepted.tokens, torch.zeros_like(accepted.lengths)
    # Drafts past the cut were verified all the same: the token after a cut is the draft there, if it was accepted.
    kept = torch.minimum(accepted.lengths, verified)
    after = drafts.gather(1, kept.long().clamp(max=gamma - 1)[:, None]).squeeze(1)
    return kept, torch.where(kept < accepted.lengths, after, accepted.tokens), accepted.lengths - kept


def _proposal(ours: Installed, draft_block: Any, greedy: torch.Tensor, candidates: torch.Tensor) -> KeptProposal | None:
    """The distribution that the drafts were drawn from; None where each was certain."""
    if draft_block.greedy_draft:
        return None
    if isinstance(draft_block.corrected_logits, KeptProposal):
        return draft_block.corrected_logits
    requests = len(candidates)
    outputs = ours.outputs(requests)
    return KeptProposal(
        draft_block.corrected_logits[:, :, ours.columns],
        outputs.log_sums,
        outputs.log_probs,
        torch.where(greedy, 0.0, draft_block.temperatures[:requests]),
        None,
        None,
        candidates[:, 0].long().contiguous(),
        ours.shard,
    )
