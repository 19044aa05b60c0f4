"""A draft block: gamma tokens a request, left to right, two launches a position."""

from __future__ import annotations

import torch

from dspark_kernels import checks
from dspark_kernels.heads import MarkovHead, Shard, reference_latent
from dspark_kernels.interpreter import launches
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_finish import DraftOutputs, finish, reference_finish
from dspark_kernels.markov_merge import merge
from dspark_kernels.markov_scan import reference_scan, scan


def worth_keeping(rows: int, gamma: int, rank: int) -> bool:
    """Whether a round moves fewer bytes if the corrected logits are kept for acceptance than if ``W2`` is read again.

    Keeping writes gamma rows of V a request, computing again reads K rows of V once.
    """
    return rows * gamma < rank


def draft_block(
    head: MarkovHead,
    base_logits: torch.Tensor,
    anchors: torch.Tensor,
    *,
    hidden: torch.Tensor | None = None,
    temperatures: torch.Tensor,
    requests: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
    sample: bool = True,
    shard: Shard | None = None,
    kept: torch.Tensor | None = None,
    outputs: DraftOutputs | None = None,
    config: ScanConfig | None = None,
) -> DraftOutputs:
    """Draws token k of each row from ``softmax((U_k + latent_k W2) / T)``, or takes the argmax at temperature 0.

    Equal keys go to the lowest token; NaN wins, as in ``torch.argmax``. A row with NaN or infinity has a NaN
    log-sum-exp, and :func:`dspark_kernels.acceptance.accept` accepts nothing of it.

    Args:
        base_logits: [R, gamma, V] ``U``, rows of any stride.
        anchors: int64 [R], the tokens before the blocks.
        hidden: [R, gamma, H], for heads that are not vanilla.
        temperatures: float32 [R].
        requests: int64 [R], what names a row's request: with ``seed`` and position it names its draws.
        positions: int64 [R], of the anchors.
        sample: False where all temperatures are 0 and the host knows it.
        shard: The shard of the vocabulary that ``base_logits``, ``head.w2`` and ``kept`` are of; all ranks of its group
            draft at once, and all get the same tokens, log-probabilities and log-sum-exps.
        kept: [R, gamma, V] that gets the corrected logits, where someone asks for them; tokens, log-probabilities and
            log-sum-exps are then of these, rounded to its dtype, so that acceptance may read them.
        outputs: Written and returned; new tensors if None.
        config: In place of the target's.

    Returns:
        Log-probabilities and log-sum-exps are those of the temperature, at temperature 0 those of temperature 1.

    Raises:
        ValueError: An argument does not fit; it is named.
    """
    head.check()
    checks.tensor("base_logits", base_logits, checks.LOGITS, (None, None, head.w2.shape[0]), head.w1, rows_only=True)
    rows, gamma, _ = base_logits.shape
    checks.between("base_logits: rows", rows, 1, checks.MAX_ROWS)
    checks.between("base_logits: gamma", gamma, 1, checks.MAX_GAMMA)
    checks.tensor("anchors", anchors, torch.int64, (rows,), base_logits)
    checks.tensor("temperatures", temperatures, torch.float32, (rows,), base_logits)
    checks.tensor("requests", requests, torch.int64, (rows,), base_logits)
    checks.tensor("positions", positions, torch.int64, (rows,), base_logits)
    if shard is not None:
        shard.check("shard", head.w2.shape[0])
    if head.kind != "vanilla":
        if hidden is None:
            raise ValueError(f"hidden: missing, expected the hidden states of a {head.kind} head")
        width = head.split()[2].shape[1]
        checks.tensor("hidden", hidden, checks.LOGITS, (rows, gamma, width), base_logits, rows_only=True)
    if kept is not None:
        checks.tensor("kept", kept, checks.LOGITS, tuple(base_logits.shape), base_logits, rows_only=True)
    if outputs is None:
        outputs = make_outputs(head, rows, gamma, base_logits.device)
    _check_outputs(head, outputs, rows, gamma, base_logits)
    from_hidden = None if hidden is None or head.kind == "vanilla" else head.from_hidden(hidden)
    if not launches(base_logits):
        given = (head, base_logits, anchors, from_hidden, temperatures, requests, positions)
        return reference_draft_block(*given, seed, sample, kept, outputs, shard)
    if from_hidden is not None:
        finish(head, None, anchors, from_hidden, outputs, -1)
    for step in range(gamma):
        partials = scan(
            head,
            base_logits[:, step],
            anchors if step == 0 else outputs.tokens[:, step - 1],
            None if outputs.latents is None else outputs.latents[:, step],
            temperatures,
            requests,
            positions,
            seed=seed,
            step=step,
            sample=sample,
            vocab_start=0 if shard is None else shard.start,
            kept=None if kept is None else kept[:, step],
            config=config,
        )
        if shard is None:
            finish(head, partials, anchors, from_hidden, outputs, step)
        else:
            finish(head, shard.gather(merge(partials)), anchors, from_hidden, outputs, step, merged=True)
    return outputs


def make_outputs(head: MarkovHead, rows: int, gamma: int, device: torch.device) -> DraftOutputs:
    """Tensors for a block of ``rows`` requests, unwritten."""
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
            raise ValueError("outputs.states: missing, expected the scratch of an rnn head")
        checks.tensor("outputs.states", outputs.states, torch.float32, (2, rows, head.rank), like)


def reference_draft_block(
    head: MarkovHead,
    base_logits: torch.Tensor,
    anchors: torch.Tensor,
    from_hidden: torch.Tensor | None,
    temperatures: torch.Tensor,
    requests: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
    sample: bool = True,
    kept: torch.Tensor | None = None,
    outputs: DraftOutputs | None = None,
    shard: Shard | None = None,
) -> DraftOutputs:
    """Reference of :func:`draft_block`."""
    rows, gamma, _ = base_logits.shape
    outputs = outputs or make_outputs(head, rows, gamma, base_logits.device)
    tokens, state = anchors, None
    for step in range(gamma):
        of_step = None if from_hidden is None else from_hidden[:, step]
        latent, state = reference_latent(head, tokens, of_step, state)
        if outputs.latents is not None:
            outputs.latents[:, step] = latent.to(outputs.latents.dtype)
        scaled, keys = reference_scan(
            head,
            base_logits[:, step],
            latent,
            temperatures,
            requests,
            positions,
            seed=seed,
            step=step,
            sample=sample,
            vocab_start=0 if shard is None else shard.start,
            kept=None if kept is None else kept[:, step],
        )
        tokens, outputs.log_probs[:, step], outputs.log_sums[:, step] = reference_finish(scaled, keys, shard)
        outputs.tokens[:, step] = tokens
    return outputs
