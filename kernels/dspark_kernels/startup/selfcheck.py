"""Compare kernels with their PyTorch references on a device: run when a server starts, and by the bench.

Each stage runs in the server's dtypes and rank, on a small vocabulary, at the numbers of requests where tiles change.
References run on the same device by PyTorch's own operators. A row's outcome does not depend on the other rows of its
batch, so every number of requests takes the first rows of the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, launch_configs, verify_lengths
from dspark_kernels.heads import MarkovHead
from dspark_kernels.markov_finish import DraftOutputs, reference_finish
from dspark_kernels.markov_scan import reference_scan
from dspark_kernels.residual_scan import Proposal
from dspark_kernels.startup.served_shapes import ServedShapes

GAMMA, VOCAB, HIDDEN = 2, 1003, 64
TOLERANCE: Final = 2e-3
# Of latents in two bytes, and of kept logits of a hundred in two bytes, which round differently now and then.
COARSE: Final = 3e-2
# A device may order two keys otherwise that differ in their last digits: in one of this many rows at most.
ROWS_A_TIE: Final = 64


def differing(
    device: torch.device, served: ServedShapes, every: bool = False, stages: Collection[str] | None = None
) -> dict[str, str]:
    """The stages that differ, and how.

    Args:
        served: What the server will launch them on; the vocabulary is that of this module.
        every: Check every number of requests, not only those where tiles change.
        stages: Of :data:`STAGES`; None for all.
    """
    counts = list(range(1, served.requests + 1)) if every else row_counts(device, served)
    found = {}
    for stage in STAGES if stages is None else stages:
        try:
            difference = STAGES[stage](device, served, counts)
        except Exception as error:  # A compiler or a driver may fail in any way; the stage is then not used.
            difference = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
        if difference is not None:
            found[stage] = f"{stage}: {difference}"
    return found


def row_counts(device: torch.device, served: ServedShapes) -> list[int]:
    """The numbers of requests to check: a few, the last of every configuration and the first of the next."""
    target = launch_configs.of(device)
    tables = (target.draft, target.wide, target.residual) if served.w2.itemsize == 2 else (target.single,)
    ends = {scan.block_rows for table in tables for scan in table}
    counts = {1, 5, served.requests} | ends | {end + 1 for end in ends}
    return sorted(count for count in counts if count <= served.requests)


class Inputs(NamedTuple):
    """A draft block, the same every time.

    Weights and logits are small integers, so that a vanilla head's products are exact whatever their order.
    """

    head: MarkovHead
    logits: torch.Tensor
    anchors: torch.Tensor
    hidden: torch.Tensor
    temperatures: torch.Tensor
    names: torch.Tensor

    def first(self, rows: int) -> Inputs:
        return Inputs(self.head, *(one[:rows] for one in self[1:]))


def inputs(served: ServedShapes, device: torch.device) -> Inputs:
    """For ``served.requests`` rows, drawn on the CPU."""
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
    return Inputs(
        head,
        integers(-4, 5, rows, GAMMA, VOCAB, to=served.logits),
        integers(0, VOCAB, rows),
        integers(-2, 3, rows, GAMMA, HIDDEN, to=served.w1),
        _cycled(torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0]), rows).to(device),
        integers(0, 1 << 40, rows),
    )


def _cycled(values: torch.Tensor, rows: int) -> torch.Tensor:
    """The values repeated in their order, [rows]."""
    return values[torch.arange(rows) % len(values)]


def _beside_nothing(merged: torch.Tensor) -> torch.Tensor:
    """A gather from two ranks, of which the other has no token."""
    nothing = torch.full_like(merged, -torch.inf)
    nothing[1] = torch.tensor(heads.NO_TOKEN, dtype=torch.int32).view(torch.float32)
    return torch.stack([merged, nothing])


def _shard(served: ServedShapes) -> heads.Shard | None:
    return None if served.shard is None else heads.Shard(0, VOCAB, _beside_nothing)


def _draft(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    of_all = inputs(served, device)
    kept_by_all = torch.empty((served.requests, GAMMA, VOCAB), dtype=served.kept, device=device)
    greedy_of_all = of_all._replace(temperatures=torch.zeros_like(of_all.temperatures))
    ends = row_counts(device, served)
    for block_of_all, sample, keeps in ((of_all, True, False), (of_all, True, True), (greedy_of_all, False, False)):

        def drafted(block: Inputs, kept: torch.Tensor | None, sample: bool = sample) -> DraftOutputs:
            return draft.draft_block(
                block.head,
                block.logits,
                block.anchors,
                hidden=block.hidden,
                temperatures=block.temperatures,
                requests=block.names,
                positions=block.names,
                seed=7,
                sample=sample,
                shard=_shard(served),
                kept=kept,
            )

        whole = drafted(block_of_all, kept_by_all if keeps else None)
        for rows in counts:
            block, kept = block_of_all.first(rows), kept_by_all[:rows] if keeps else None
            found = drafted(block, kept)
            # Between the numbers of requests where tiles change, blocks are compared with those of all requests.
            exact = rows in ends or served.kind != "vanilla"
            if (difference := _follows(block, found, kept) if exact else _same(found, whole)) is not None:
                return f"{difference} at {rows} requests"
    return None


def _same(found: DraftOutputs, whole: DraftOutputs) -> str | None:
    """How blocks of the first requests differ from those of a batch of more."""
    rows = len(found.tokens)
    if int((found.tokens != whole.tokens[:rows]).sum()) > rows // ROWS_A_TIE:
        return "drafts other tokens"
    pairs = ((found.log_sums, whole.log_sums[:rows]), (found.log_probs, whole.log_probs[:rows]))
    off = max(float((one - other).abs().max()) for one, other in pairs)
    return None if off <= TOLERANCE else f"log-sum-exp off by {off:.1e}"


def _follows(given: Inputs, found: DraftOutputs, kept: torch.Tensor | None) -> str | None:
    """How a block differs from the reference, each position given the tokens and latents before it."""
    head, names = given.head, given.names
    tokens, log_probs, log_sums, latents = found.tokens, found.log_probs, found.log_sums, found.latents
    hidden = None if head.kind == "vanilla" else head.from_hidden(given.hidden)
    before, state = given.anchors, None
    for step in range(GAMMA):
        latent, state = heads.reference_latent(head, before, None if hidden is None else hidden[:, step], state)
        if latents is not None:
            if (off := float((latents[:, step].float() - latent).abs().max())) > COARSE:
                return f"latents off by {off:.1e}"
            latent = latents[:, step].float()
        buffer = None if kept is None else torch.empty_like(kept[:, step], memory_format=torch.contiguous_format)
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
            off = float((kept[:, step].float() - buffer.float()).abs().max())
            if not off <= (0.0 if latents is None else 1.0):
                return f"kept logits off by {off:.1e}"
    return None


def _confidence(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    rows = 5
    block = inputs(served._replace(requests=rows), device)
    random = torch.Generator().manual_seed(6)
    hidden = torch.randn(rows, GAMMA, HIDDEN, generator=random).to(device, served.w1)
    drafts = torch.randint(0, VOCAB, (rows, GAMMA), generator=random).to(device)
    weight = (torch.randn(HIDDEN + served.rank, generator=random) / 16).to(device)
    bias, temperatures = torch.ones(1, device=device), torch.tensor([0.8, 1.5], device=device)
    given = (hidden, block.anchors, drafts, weight, bias, temperatures, block.head.w1)
    found, wanted = confidence.confidence_block(*given), confidence.reference_confidence(*given)
    off = max(float((a - b).abs().max()) for a, b in zip(found[1:], wanted[1:], strict=True))
    return None if off <= TOLERANCE else f"off by {off:.1e}"


def _lengths(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    random = torch.Generator().manual_seed(8)
    of_all = (torch.randint(1, 9, (served.requests, served.gamma), generator=random) / 8).to(device)
    for rows in counts:
        given = of_all[:rows]
        for cap in (0, 1, 2 * rows, served.gamma * rows):
            found = verify_lengths.verify_lengths(given, cap, floor=1e-6)
            wanted = verify_lengths.reference_lengths(given, cap, 1e-6, 0, served.gamma, None, None, None, None, False)
            if not torch.equal(found, wanted):
                return f"other lengths under a cap of {cap} at {rows} requests"
    return None


def _accept(device: torch.device, served: ServedShapes, counts: Sequence[int]) -> str | None:
    requests, random = served.requests, torch.Generator().manual_seed(9)
    given = inputs(served, device)
    head, logits, names = given.head, given.logits, given.names
    from_hidden = None if head.kind == "vanilla" else head.from_hidden(given.hidden)
    kept = torch.empty((requests, GAMMA, VOCAB), dtype=served.kept, device=device)
    lengths = torch.randint(0, GAMMA + 1, (requests,), generator=random).to(device, torch.int32)
    target = torch.randint(-6, 7, (requests * (GAMMA + 1), VOCAB), generator=random).to(device, served.target)
    at = _cycled(torch.tensor([1.0, 1.0, 0.0, 2.0, 4.0]), requests).to(device)
    top_ks = _cycled(torch.tensor([VOCAB, 50, 1, VOCAB, 20], dtype=torch.int32), requests).to(device)
    top_ps = _cycled(torch.tensor([1.0, 0.9, 1.0, 0.5, 0.8]), requests).to(device)
    starts = torch.arange(requests, device=device) * (GAMMA + 1)
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
        # The target knows the first drafts, so that some are accepted.
        target[starts, drafted.tokens[:, 0]] = 12.0

        def verified(
            rows: int, drafted: DraftOutputs = drafted, again: bool = again
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Proposal]:
            proposal = Proposal(
                (logits if again else kept)[:rows],
                drafted.log_sums[:rows],
                drafted.log_probs[:rows],
                given.temperatures[:rows],
                head if again else None,
                drafted.latents[:rows] if again and drafted.latents is not None else None,
                given.anchors[:rows],
                _shard(served),
            )
            return target[: rows * (GAMMA + 1)], starts[:rows], lengths[:rows], drafted.tokens[:rows], proposal

        wanted = acceptance.reference_accept(*verified(requests), at, top_ks, top_ps, names, names, 11)
        for rows in counts:
            found = acceptance.accept(
                *verified(rows),
                temperatures=at[:rows],
                top_ks=top_ks[:rows],
                top_ps=top_ps[:rows],
                requests=names[:rows],
                positions=names[:rows],
                seed=11,
            )
            for one, other, what in (
                (found.lengths, wanted.lengths[:rows], "accepts another number of drafts"),
                (found.tokens, wanted.tokens[:rows], "ends rounds with other tokens"),
            ):
                if int((one != other).sum()) > rows // ROWS_A_TIE:
                    return f"{what} at {rows} requests"
    return None


STAGES: Final[dict[str, Callable[[torch.device, ServedShapes, Sequence[int]], str | None]]] = {
    "draft": _draft,
    "confidence": _confidence,
    "lengths": _lengths,
    "accept": _accept,
}
