"""Draft a block of gamma tokens for each request, left to right, with two launches a position."""

from __future__ import annotations

import torch

from dspark_kernels import checks
from dspark_kernels.batches import DraftBatch
from dspark_kernels.heads import MarkovHead, Shard, reference_latent
from dspark_kernels.interpreter import launches
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_finish import DraftOutputs, finish, reference_finish
from dspark_kernels.markov_merge import merge
from dspark_kernels.markov_scan import reference_scan, scan


def worth_keeping(rows: int, gamma: int, rank: int) -> bool:
    """Whether keeping the corrected logits for acceptance moves fewer bytes than reading ``W2`` a second time.

    Keeping writes gamma rows of V for each request; recomputing reads K rows of V once.
    """
    return rows * gamma < rank


def draft_block(
    batch: DraftBatch,
    *,
    sample: bool = True,
    shard: Shard | None = None,
    kept: torch.Tensor | None = None,
    outputs: DraftOutputs | None = None,
    config: ScanConfig | None = None,
) -> DraftOutputs:
    """Draw token k of each row from ``softmax((U_k + latent_k W2) / T)``; temperature 0 is argmax.

    Equal keys go to the lowest token; NaN wins, as in ``torch.argmax``. A row with NaN or infinity has a NaN
    log-sum-exp, and :func:`dspark_kernels.acceptance.accept` accepts none of its drafts.

    Args:
        sample: False where the host knows that all temperatures are 0.
        shard: The shard of the vocabulary that ``base_logits``, ``head.w2`` and ``kept`` cover. All ranks of its group
            must draft at the same time; all return the same tokens, log-probabilities and log-sum-exps.
        kept: [R, gamma, V], overwritten with the corrected logits. Tokens, log-probabilities and log-sum-exps are then
            those of the logits as rounded to its dtype, so acceptance may read them.
        outputs: Written and returned; new tensors if None.
        config: Replaces the launch configuration of the GPU.

    Returns:
        Log-probabilities and log-sum-exps at the row's temperature, at temperature 0 those of temperature 1.

    Raises:
        ValueError: An argument does not fit; the message names it.
    """
    batch.check()
    head, logits = batch.head, batch.base_logits
    rows, gamma, width = logits.shape
    if shard is not None:
        shard.check("shard", width)
    if kept is not None:
        checks.tensor("kept", kept, checks.LOGITS, tuple(logits.shape), logits, rows_only=True)
    if outputs is None:
        outputs = make_outputs(head, rows, gamma, logits.device)
    _check_outputs(head, outputs, rows, gamma, logits)
    if not launches(logits):
        return reference_draft_block(batch, sample=sample, shard=shard, kept=kept, outputs=outputs)
    from_hidden = batch.from_hidden()
    if from_hidden is not None:
        finish(head, None, batch.anchors, from_hidden, outputs, -1)
    for step in range(gamma):
        partials = scan(
            batch,
            step,
            batch.anchors if step == 0 else outputs.tokens[:, step - 1],
            None if outputs.latents is None else outputs.latents[:, step],
            sample=sample,
            vocab_start=0 if shard is None else shard.start,
            kept=kept,
            config=config,
        )
        if shard is None:
            finish(head, partials, batch.anchors, from_hidden, outputs, step)
        else:
            finish(head, shard.gather(merge(partials)), batch.anchors, from_hidden, outputs, step, merged=True)
    return outputs


def make_outputs(head: MarkovHead, rows: int, gamma: int, device: torch.device) -> DraftOutputs:
    """Allocate uninitialised outputs for ``rows`` requests."""
    vanilla = head.kind == "vanilla"
    return DraftOutputs(
        torch.empty((rows, gamma), dtype=torch.int64, device=device),
        torch.empty((rows, gamma), dtype=torch.float32, device=device),
        torch.empty((rows, gamma), dtype=torch.float32, device=device),
        None if vanilla else torch.empty((rows, gamma, head.rank), dtype=head.w2.dtype, device=device),
        torch.empty((2, rows, head.rank), dtype=torch.float32, device=device) if head.kind == "rnn" else None,
    )


def _check_outputs(head: MarkovHead, outputs: DraftOutputs, rows: int, gamma: int, like: torch.Tensor) -> None:
    checks.tensor("outputs.tokens", outputs.tokens, torch.int64, (rows, gamma), like)
    checks.tensor("outputs.log_probs", outputs.log_probs, torch.float32, (rows, gamma), like)
    checks.tensor("outputs.log_sums", outputs.log_sums, torch.float32, (rows, gamma), like)
    if head.kind != "vanilla":
        if outputs.latents is None:
            raise ValueError(f"outputs.latents: missing, expected those of a {head.kind} head")
        checks.tensor("outputs.latents", outputs.latents, head.w2.dtype, (rows, gamma, head.rank), like)
    if head.kind == "rnn":
        if outputs.states is None:
            raise ValueError("outputs.states: missing, expected the scratch buffer of an rnn head")
        checks.tensor("outputs.states", outputs.states, torch.float32, (2, rows, head.rank), like)


def reference_draft_block(
    batch: DraftBatch,
    *,
    sample: bool = True,
    shard: Shard | None = None,
    kept: torch.Tensor | None = None,
    outputs: DraftOutputs | None = None,
) -> DraftOutputs:
    """PyTorch reference of :func:`draft_block`."""
    head, from_hidden = batch.head, batch.from_hidden()
    rows, gamma, _ = batch.base_logits.shape
    outputs = outputs or make_outputs(head, rows, gamma, batch.base_logits.device)
    tokens, state = batch.anchors, None
    for step in range(gamma):
        latent, state = reference_latent(head, tokens, None if from_hidden is None else from_hidden[:, step], state)
        if outputs.latents is not None:
            outputs.latents[:, step] = latent.to(outputs.latents.dtype)
        start = 0 if shard is None else shard.start
        scaled, keys = reference_scan(batch, step, latent, sample=sample, vocab_start=start, kept=kept)
        tokens, outputs.log_probs[:, step], outputs.log_sums[:, step] = reference_finish(scaled, keys, shard)
        outputs.tokens[:, step] = tokens
    return outputs
