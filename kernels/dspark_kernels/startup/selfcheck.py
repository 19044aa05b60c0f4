"""Compare kernels with their PyTorch references on a device; run at server start-up and by the bench.

Each stage runs in the server's dtypes and rank, on a small vocabulary, at the batch sizes where tiles change. The
references run on the same device. A row's result does not depend on the other rows of its batch, so every batch size
takes the first rows of the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import torch

from dspark_kernels import acceptance, confidence, draft, heads, launch_configs, verify_lengths
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.heads import MarkovHead
from dspark_kernels.markov_finish import DraftOutputs, reference_finish
from dspark_kernels.markov_scan import reference_scan
from dspark_kernels.startup.served_shapes import ServedShapes

GAMMA, VOCAB, HIDDEN = 2, 1003, 64
TOLERANCE: Final = 2e-3
# Tolerance of 2-byte latents and of 2-byte kept logits near 100, which may round the other way.
COARSE: Final = 3e-2
# A device may swap two keys that differ in their last digits, in at most one of this many rows.
ROWS_A_TIE: Final = 64


def differing(
    device: torch.device, served: ServedShapes, every: bool = False, stages: Collection[str] | None = None
) -> dict[str, str]:
    """Describe how each differing stage differs from its reference; empty where all agree.

    Args:
        served: Shapes and dtypes of the server; its vocabulary is replaced by this module's.
        every: Check every batch size, not only those where tiles change.
        stages: Of :data:`STAGES`; None for all.
    """
    counts = list(range(1, served.requests + 1)) if every else row_counts(device, served)
    differences = {}
    for stage in STAGES if stages is None else stages:
        try:
            difference = STAGES[stage](device, served, counts)
        except Exception as error:  # A compiler or a driver may fail in any way; the stage is then not used.
            difference = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
        if difference is not None:
            differences[stage] = f"{stage}: {difference}"
    return differences


def row_counts(device: torch.device, served: ServedShapes) -> list[int]:
    """Batch sizes to check: 1, 5, the largest, and both sides of every change of launch configuration."""
    target = launch_configs.of(device)
    tables = (target.draft, target.wide, target.residual) if served.w2.itemsize == 2 else (target.single,)
    ends = {scan.block_rows for table in tables for scan in table}
    counts = {1, 5, served.requests} | ends | {end + 1 for end in ends}
    return sorted(count for count in counts if count <= served.requests)


def inputs(served: ServedShapes, device: torch.device) -> DraftBatch:
    """The same ``served.requests`` rows every time, drawn on the CPU.

    Weights and logits are small integers, so the products of a vanilla head are exact in any order.
    """
    random = torch.Generator().manual_seed(5)

    def integers(least: int, most: int, *shape: int, scale: int = 1, to: torch.dtype = torch.int64) -> torch.Tensor:
        drawn = torch.randint(least, most, shape, generator=random)
        return (drawn / scale if scale > 1 else drawn).to(device, to)

    rows, rank, chunks = served.requests, served.rank, heads.CHUNKS[served.kind]
    head = MarkovHead(
        served.kind, integers(-2, 3, VOCAB, rank, to=served.w1), integers(-1, 2, VOCAB, rank, to=served.w2)
    )
    if chunks:
        width = HIDDEN + rank * (2 if served.kind == "rnn" else 1)
        joint = integers(-2, 3, chunks * rank, width, scale=64, to=served.w1)
        head = head._replace(joint=joint, bias=integers(-2, 3, chunks * rank, to=served.w1))
    logits = integers(-4, 5, rows, GAMMA, VOCAB, to=served.logits)
    anchors = integers(0, VOCAB, rows)
    hidden = integers(-2, 3, rows, GAMMA, HIDDEN, to=served.w1)
    temperatures = _cycled(torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0]), rows).to(device)
    names = integers(0, 1 << 40, rows)
    return DraftBatch(head, logits, anchors, hidden, temperatures, names, names, 7)


def _cycled(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Repeat the values in order, [rows]."""
    return values[torch.arange(rows) % len(values)]


def _beside_empty_rank(merged: torch.Tensor) -> torch.Tensor:
    """A gather from two ranks of which the other has no tokens."""
    nothing = torch.full_like(merged, -torch.inf)
    nothing[1] = torch.tensor(heads.NO_TOKEN, dtype=torch.int32).view(torch.float32)
    return torch.stack([merged, nothing])


def _shard(served: ServedShapes) -> heads.Shard | None:
    return None if served.shard is None else heads.Shard(0, VOCAB, _beside_empty_rank)


def _draft(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    sampled = inputs(served, device)
    kept_by_all = torch.empty((served.requests, GAMMA, VOCAB), dtype=served.kept, device=device)
    greedy = sampled._replace(temperatures=torch.zeros_like(sampled.temperatures))
    ends = row_counts(device, served)
    for batch, sample, keeps in ((sampled, True, False), (sampled, True, True), (greedy, False, False)):

        def drafted(batch: DraftBatch, kept: torch.Tensor | None, sample: bool = sample) -> DraftOutputs:
            return draft.draft_block(batch, sample=sample, shard=_shard(served), kept=kept)

        whole = drafted(batch, kept_by_all if keeps else None)
        for rows in counts:
            part, kept = batch.at(slice(rows)), kept_by_all[:rows] if keeps else None
            outputs = drafted(part, kept)
            # At other counts than those where tiles change, blocks are compared with those of all requests.
            exact = rows in ends or served.kind != "vanilla"
            difference = _difference(part, outputs, kept) if exact else _difference_of_rows(outputs, whole)
            if difference is not None:
                return f"{difference} at {rows} requests"
    return None


def _difference_of_rows(part: DraftOutputs, whole: DraftOutputs) -> str | None:
    """Compare the blocks of the first requests with those of a larger batch."""
    rows = len(part.tokens)
    if int((part.tokens != whole.tokens[:rows]).sum()) > rows // ROWS_A_TIE:
        return "drafts other tokens"
    pairs = ((part.log_sums, whole.log_sums[:rows]), (part.log_probs, whole.log_probs[:rows]))
    off = max(float((one - other).abs().max()) for one, other in pairs)
    return None if off <= TOLERANCE else f"log-sum-exp off by {off:.1e}"


def _difference(batch: DraftBatch, outputs: DraftOutputs, kept: torch.Tensor | None) -> str | None:
    """Compare a block with the reference at each position, given the block's own earlier tokens and latents."""
    head, from_hidden = batch.head, batch.from_hidden()
    tokens, log_probs, log_sums, latents = outputs.tokens, outputs.log_probs, outputs.log_sums, outputs.latents
    before, state = batch.anchors, None
    buffer = None if kept is None else torch.empty_like(kept, memory_format=torch.contiguous_format)
    for step in range(GAMMA):
        of_step = None if from_hidden is None else from_hidden[:, step]
        latent, state = heads.reference_latent(head, before, of_step, state)
        if latents is not None:
            if (off := float((latents[:, step].float() - latent).abs().max())) > COARSE:
                return f"latents off by {off:.1e}"
            latent = latents[:, step].float()
        scaled, keys = reference_scan(batch, step, latent, kept=buffer)
        wanted, _, sums = reference_finish(scaled, keys)
        if int((tokens[:, step] != wanted).sum()) > len(before) // ROWS_A_TIE:
            return "drafts other tokens"
        before = tokens[:, step]
        probs = scaled.gather(1, before[:, None]).squeeze(1) - sums
        off = max(float((log_sums[:, step] - sums).abs().max()), float((log_probs[:, step] - probs).abs().max()))
        if not off <= (TOLERANCE if latents is None else COARSE):
            return f"log-sum-exp off by {off:.1e}"
        if kept is not None and buffer is not None:
            off = float((kept[:, step].float() - buffer[:, step].float()).abs().max())
            if not off <= (0.0 if latents is None else 1.0):
                return f"kept logits off by {off:.1e}"
    return None


def _confidence(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    rows = 5
    batch = inputs(served._replace(requests=rows), device)
    random = torch.Generator().manual_seed(6)
    hidden = torch.randn(rows, GAMMA, HIDDEN, generator=random).to(device, served.w1)
    drafts = torch.randint(0, VOCAB, (rows, GAMMA), generator=random).to(device)
    weight = (torch.randn(HIDDEN + served.rank, generator=random) / 16).to(device)
    bias, temperatures = torch.ones(1, device=device), torch.tensor([0.8, 1.5], device=device)
    given = (hidden, batch.anchors, drafts, weight, bias, temperatures, batch.head.w1)
    ours, reference = confidence.confidence_block(*given), confidence.reference_confidence(*given)
    off = max(float((a - b).abs().max()) for a, b in zip(ours[1:], reference[1:], strict=True))
    return None if off <= TOLERANCE else f"off by {off:.1e}"


def _lengths(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    random = torch.Generator().manual_seed(8)
    of_all = (torch.randint(1, 9, (served.requests, served.gamma), generator=random) / 8).to(device)
    for rows in counts:
        given = of_all[:rows]
        for cap in (0, 1, 2 * rows, served.gamma * rows):
            ours = verify_lengths.verify_lengths(given, cap, floor=1e-6)
            reference = verify_lengths.reference_lengths(given, cap, floor=1e-6, most=served.gamma)
            if not torch.equal(ours, reference):
                return f"other lengths under a cap of {cap} at {rows} requests"
    return None


def _accept(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    requests, random = served.requests, torch.Generator().manual_seed(9)
    drafting = inputs(served, device)
    kept = torch.empty((requests, GAMMA, VOCAB), dtype=served.kept, device=device)
    lengths = torch.randint(0, GAMMA + 1, (requests,), generator=random).to(device, torch.int32)
    target = torch.randint(-6, 7, (requests * (GAMMA + 1), VOCAB), generator=random).to(device, served.target)
    temperatures = _cycled(torch.tensor([1.0, 1.0, 0.0, 2.0, 4.0]), requests).to(device)
    top_ks = _cycled(torch.tensor([VOCAB, 50, 1, VOCAB, 20], dtype=torch.int32), requests).to(device)
    top_ps = _cycled(torch.tensor([1.0, 0.9, 1.0, 0.5, 0.8]), requests).to(device)
    starts = torch.arange(requests, device=device) * (GAMMA + 1)
    for recompute in (True, False):
        drafted = draft.reference_draft_block(drafting, kept=None if recompute else kept)
        # The target favours the first drafts, so that some are accepted.
        target[starts, drafted.tokens[:, 0]] = 12.0

        def verified(rows: int, drafted: DraftOutputs = drafted, recompute: bool = recompute) -> VerifiedBatch:
            first = drafting.at(slice(rows))
            proposal = KeptProposal(
                first.base_logits if recompute else kept[:rows],
                drafted.log_sums[:rows],
                drafted.log_probs[:rows],
                first.temperatures,
                first.head if recompute else None,
                drafted.latents[:rows] if recompute and drafted.latents is not None else None,
                first.anchors,
                _shard(served),
            )
            return VerifiedBatch(
                target[: rows * (GAMMA + 1)],
                starts[:rows],
                lengths[:rows],
                drafted.tokens[:rows],
                proposal,
                temperatures[:rows],
                first.requests,
                first.positions,
                11,
                top_ks[:rows],
                top_ps[:rows],
            )

        reference = acceptance.reference_accept(verified(requests))
        for rows in counts:
            ours = acceptance.accept(verified(rows))
            for one, other, difference in (
                (ours.lengths, reference.lengths[:rows], "accepts another number of drafts"),
                (ours.tokens, reference.tokens[:rows], "ends rounds with other tokens"),
            ):
                if int((one != other).sum()) > rows // ROWS_A_TIE:
                    return f"{difference} at {rows} requests"
    return None


STAGES: Final[dict[str, Callable[[torch.device, ServedShapes, Sequence[int]], str | None]]] = {
    "draft": _draft,
    "confidence": _confidence,
    "lengths": _lengths,
    "accept": _accept,
}
