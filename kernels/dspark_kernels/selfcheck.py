"""Whether the kernels compute on a device what their references compute on the CPU: run when a server starts.

Each stage runs in the server's dtypes and rank, on a small vocabulary, at the numbers of requests where tiles change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, targets, verify_lengths
from dspark_kernels.heads import MarkovHead
from dspark_kernels.markov_finish import Outputs, reference_finish
from dspark_kernels.markov_scan import reference_scan
from dspark_kernels.residual_scan import Proposal
from dspark_kernels.specimens import Served

GAMMA, VOCAB, HIDDEN = 2, 1003, 64
TOLERANCE: Final = 2e-3
# Of latents in two bytes, and of kept logits of a hundred in two bytes, which round differently now and then.
COARSE: Final = 3e-2
# A device may order two keys otherwise that differ in their last digits: in one of this many rows at most.
ROWS_A_TIE: Final = 64


def differing(device: torch.device, served: Served, every: bool = False) -> dict[str, str]:
    """The stages that differ, and how.

    Args:
        served: What the server will launch them on; the vocabulary is that of this module.
        every: Check every number of requests, not only those where tiles change.
    """
    counts = list(range(1, served.requests + 1)) if every else row_counts(device, served)
    found = {}
    for stage, check in STAGES.items():
        try:
            difference = check(device, served, counts)
        except Exception as error:  # A compiler or a driver may fail in any way; the stage is then not used.
            difference = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
        if difference is not None:
            found[stage] = f"{stage}: {difference}"
    return found


def row_counts(device: torch.device, served: Served) -> list[int]:
    """The numbers of requests to check: a few, the last of every configuration and the first of the next."""
    target = targets.of(device)
    tables = (target.draft, target.residual) if served.w2.itemsize == 2 else (target.single,)
    ends = {scan.block_rows for table in tables for scan in table}
    counts = {1, 5, served.requests} | ends | {end + 1 for end in ends}
    return sorted(count for count in counts if count <= served.requests)


class Inputs(NamedTuple):
    """A block of one dtype each, the same every time, on the CPU.

    Weights and logits are small integers, so that a vanilla head's products are exact whatever their order.
    """

    head: MarkovHead
    logits: torch.Tensor
    anchors: torch.Tensor
    hidden: torch.Tensor
    temperatures: torch.Tensor
    names: torch.Tensor


def inputs(served: Served, rows: int) -> Inputs:
    random = torch.Generator().manual_seed(5)

    def integers(least: int, most: int, *shape: int) -> torch.Tensor:
        return torch.randint(least, most, shape, generator=random)

    rank, chunks = served.rank, heads.CHUNKS[served.kind]
    head = MarkovHead(
        served.kind, integers(-2, 3, VOCAB, rank).to(served.w1), integers(-1, 2, VOCAB, rank).to(served.w2)
    )
    if chunks:
        joint = integers(-2, 3, chunks * rank, HIDDEN + rank * (2 if served.kind == "rnn" else 1)) / 64
        head = head._replace(joint=joint.to(served.w1), bias=integers(-2, 3, chunks * rank).to(served.w1))
    return Inputs(
        head,
        integers(-4, 5, rows, GAMMA, VOCAB).to(served.logits),
        integers(0, VOCAB, rows),
        integers(-2, 3, rows, GAMMA, HIDDEN).to(served.w1),
        _cycled(torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0]), rows),
        integers(0, 1 << 40, rows),
    )


def _cycled(values: torch.Tensor, rows: int) -> torch.Tensor:
    """The values one after the other and again, [rows]."""
    return values[torch.arange(rows) % len(values)]


def _on(head: MarkovHead, device: torch.device) -> MarkovHead:
    joint, bias = (None if one is None else one.to(device) for one in (head.joint, head.bias))
    return MarkovHead(head.kind, head.w1.to(device), head.w2.to(device), joint, bias)


def _draft(device: torch.device, served: Served, counts: Sequence[int]) -> str | None:
    for rows in counts:
        given = inputs(served, rows)
        for kept in (None, torch.empty((rows, GAMMA, VOCAB), dtype=served.kept, device=device)):
            found = draft.draft_block(
                _on(given.head, device),
                given.logits.to(device),
                given.anchors.to(device),
                hidden=given.hidden.to(device),
                temperatures=given.temperatures.to(device),
                requests=given.names.to(device),
                positions=given.names.to(device),
                seed=7,
                kept=kept,
            )
            if (difference := _follows(given, found, kept)) is not None:
                return f"{difference} at {rows} requests"
    return None


def _follows(given: Inputs, found: Outputs, kept: torch.Tensor | None) -> str | None:
    """How a block differs from the reference, each position given the tokens and latents before it."""
    head, names = given.head, given.names
    tokens, log_probs, log_sums = found.tokens.cpu(), found.log_probs.cpu(), found.log_sums.cpu()
    latents = None if found.latents is None else found.latents.cpu()
    hidden = None if head.kind == "vanilla" else head.from_hidden(given.hidden)
    before, state = given.anchors, None
    for step in range(GAMMA):
        latent, state = heads.reference_latent(head, before, None if hidden is None else hidden[:, step], state)
        if latents is not None:
            if (off := float((latents[:, step].float() - latent).abs().max())) > COARSE:
                return f"latents off by {off:.1e}"
            latent = latents[:, step].float()
        buffer = None if kept is None else torch.empty((len(before), VOCAB), dtype=kept.dtype)
        scaled, keys = reference_scan(
            head,
            given.logits[:, step],
            latent,
            given.temperatures,
            names,
            names,
            seed=7,
            step=step,
            sample=True,
            kept=buffer,
        )
        wanted, _, sums = reference_finish(scaled, keys)
        if int((tokens[:, step] != wanted).sum()) > len(before) // ROWS_A_TIE:
            return "drafts other tokens"
        before = tokens[:, step]
        probs = scaled.gather(1, before[:, None]).squeeze(1) - sums
        off = max(float((log_sums[:, step] - sums).abs().max()), float((log_probs[:, step] - probs).abs().max()))
        if not off <= (TOLERANCE if latents is None else COARSE):
            return f"log-sum-exp off by {off:.1e}"
        if kept is not None and buffer is not None:
            off = float((kept[:, step].cpu().float() - buffer.float()).abs().max())
            if not off <= (0.0 if latents is None else 1.0):
                return f"kept logits off by {off:.1e}"
    return None


def _confidence(device: torch.device, served: Served, counts: Sequence[int]) -> str | None:
    rows = 5
    block = inputs(served, rows)
    random = torch.Generator().manual_seed(6)
    hidden = torch.randn(rows, GAMMA, HIDDEN, generator=random).to(served.w1)
    drafts = torch.randint(0, VOCAB, (rows, GAMMA), generator=random)
    weight, bias = torch.randn(HIDDEN + served.rank, generator=random) / 16, torch.ones(1)
    given = (hidden, block.anchors, drafts, weight, bias, torch.tensor([0.8, 1.5]), block.head.w1)
    found = confidence.confidence_block(*(one.to(device) for one in given))
    wanted = confidence.reference_confidence(*given)
    off = max(float((a.cpu() - b).abs().max()) for a, b in zip(found[1:], wanted[1:], strict=True))
    return None if off <= TOLERANCE else f"off by {off:.1e}"


def _lengths(device: torch.device, served: Served, counts: Sequence[int]) -> str | None:
    random = torch.Generator().manual_seed(8)
    for rows in counts:
        given = torch.randint(1, 9, (rows, served.gamma), generator=random) / 8
        for cap in (0, 1, 2 * rows, served.gamma * rows):
            found = verify_lengths.verify_lengths(given.to(device), cap, floor=1e-6)
            wanted = verify_lengths.reference_lengths(given, cap, 1e-6, 0, served.gamma, None, None, None, None, False)
            if not torch.equal(found.cpu(), wanted):
                return f"other lengths under a cap of {cap} at {rows} requests"
    return None


def _accept(device: torch.device, served: Served, counts: Sequence[int]) -> str | None:
    for rows in counts:
        given, random = inputs(served, rows), torch.Generator().manual_seed(9)
        head, logits, names = given.head, given.logits, given.names
        from_hidden = None if head.kind == "vanilla" else head.from_hidden(given.hidden)
        kept = torch.empty((rows, GAMMA, VOCAB), dtype=served.kept)
        lengths = torch.randint(0, GAMMA + 1, (rows,), generator=random).int()
        target = torch.randint(-6, 7, (rows * (GAMMA + 1), VOCAB), generator=random).to(served.target)
        at = _cycled(torch.tensor([1.0, 1.0, 0.0, 2.0, 4.0]), rows)
        top_ks = _cycled(torch.tensor([VOCAB, 50, 1, VOCAB, 20], dtype=torch.int32), rows)
        top_ps = _cycled(torch.tensor([1.0, 0.9, 1.0, 0.5, 0.8]), rows)
        starts = torch.arange(rows) * (GAMMA + 1)
        for again in (True, False):
            drafted = draft.reference_draft_block(
                head,
                logits,
                given.anchors,
                from_hidden,
                given.temperatures,
                names,
                names,
                7,
                kept=None if again else kept,
            )
            proposal = Proposal(
                logits if again else kept,
                drafted.log_sums,
                drafted.log_probs,
                given.temperatures,
                head if again else None,
                drafted.latents if again else None,
                given.anchors,
            )
            # The target knows the first drafts, so that some are accepted.
            target[starts, drafted.tokens[:, 0]] = 12.0
            wanted = acceptance.reference_accept(
                target, starts, lengths, drafted.tokens, proposal, at, top_ks, top_ps, names, names, 11
            )
            there = Proposal(
                proposal.logits.to(device),
                drafted.log_sums.to(device),
                drafted.log_probs.to(device),
                given.temperatures.to(device),
                _on(head, device) if again else None,
                None if proposal.latents is None else proposal.latents.to(device),
                given.anchors.to(device),
            )
            found = acceptance.accept(
                target.to(device),
                starts.to(device),
                lengths.to(device),
                drafted.tokens.to(device),
                there,
                temperatures=at.to(device),
                top_ks=top_ks.to(device),
                top_ps=top_ps.to(device),
                requests=names.to(device),
                positions=names.to(device),
                seed=11,
            )
            for one, other, what in (
                (found.lengths, wanted.lengths, "accepts another number of drafts"),
                (found.tokens, wanted.tokens, "ends rounds with other tokens"),
            ):
                if int((one.cpu() != other).sum()) > rows // ROWS_A_TIE:
                    return f"{what} at {rows} requests"
    return None


STAGES: Final[dict[str, Callable[[torch.device, Served, Sequence[int]], str | None]]] = {
    "draft": _draft,
    "confidence": _confidence,
    "lengths": _lengths,
    "accept": _accept,
}
