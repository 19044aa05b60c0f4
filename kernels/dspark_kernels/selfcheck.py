"""Whether the kernels compute on a device what their references compute on the CPU: run when a server starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from dspark_kernels import acceptance, confidence, draft, verify_lengths
from dspark_kernels.heads import MarkovHead
from dspark_kernels.residual_scan import Proposal

ROWS, GAMMA, VOCAB, RANK, HIDDEN = 5, 3, 1003, 32, 64
TOLERANCE: Final = 2e-3


def differing(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The stages that differ, and how.

    Args:
        dtype: Of logits and weights.
    """
    found = {}
    for stage, check in STAGES.items():
        try:
            difference = check(device, dtype)
        except Exception as error:  # A compiler or a driver may fail in any way; the stage is then not used.
            difference = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no message'}"
        if difference is not None:
            found[stage] = f"{stage}: {difference}"
    return found


def inputs(dtype: torch.dtype) -> tuple[MarkovHead, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Head, base logits, anchors, temperatures and names, the same every time, on the CPU.

    Weights and logits are small integers, so that products are exact whatever their order.
    """
    random = torch.Generator().manual_seed(5)

    def integers(least: int, most: int, *shape: int) -> torch.Tensor:
        return torch.randint(least, most, shape, generator=random)

    head = MarkovHead("vanilla", integers(-2, 3, VOCAB, RANK).to(dtype), integers(-1, 2, VOCAB, RANK).to(dtype))
    logits = integers(-4, 5, ROWS, GAMMA, VOCAB).to(dtype)
    temperatures = torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0])
    return head, logits, integers(0, VOCAB, ROWS), temperatures, integers(0, 1 << 40, ROWS)


def _draft(device: torch.device, dtype: torch.dtype) -> str | None:
    head, logits, anchors, temperatures, names = inputs(dtype)
    there = MarkovHead(head.kind, head.w1.to(device), head.w2.to(device))
    found = draft.draft_block(
        there,
        logits.to(device),
        anchors.to(device),
        temperatures=temperatures.to(device),
        requests=names.to(device),
        positions=names.to(device),
        seed=7,
    )
    wanted = draft.reference_draft_block(head, logits, anchors, None, temperatures, names, names, 7)
    if not torch.equal(found.tokens.cpu(), wanted.tokens):
        return "drafts other tokens"
    if not torch.allclose(found.log_sums.cpu(), wanted.log_sums, atol=TOLERANCE, rtol=0):
        return f"log-sum-exp off by {(found.log_sums.cpu() - wanted.log_sums).abs().max():.1e}"
    return None


def _confidence(device: torch.device, dtype: torch.dtype) -> str | None:
    head, _, anchors, _, _ = inputs(dtype)
    random = torch.Generator().manual_seed(6)
    hidden = torch.randn(ROWS, GAMMA, HIDDEN, generator=random).to(dtype)
    drafts = torch.randint(0, VOCAB, (ROWS, GAMMA), generator=random)
    weight, bias = torch.randn(HIDDEN + RANK, generator=random) / 8, torch.ones(1)
    given = (hidden, anchors, drafts, weight, bias, torch.tensor([0.8, 1.0, 1.5]), head.w1)
    found = confidence.confidence_block(*(one.to(device) for one in given))
    wanted = confidence.reference_confidence(*given)
    off = max(float((a.cpu() - b).abs().max()) for a, b in zip(found[1:], wanted[1:], strict=True))
    return None if off <= TOLERANCE else f"off by {off:.1e}"


def _lengths(device: torch.device, dtype: torch.dtype) -> str | None:
    random = torch.Generator().manual_seed(8)
    given = torch.randint(1, 9, (64, 7), generator=random) / 8
    for cap in (0, 1, 100, 448):
        found = verify_lengths.verify_lengths(given.to(device), cap, floor=1e-6)
        wanted = verify_lengths.reference_lengths(given, cap, 1e-6, 0, 7, None, None, None, None, False)
        if not torch.equal(found.cpu(), wanted):
            return f"other lengths under a cap of {cap}"
    return None


def _accept(device: torch.device, dtype: torch.dtype) -> str | None:
    head, logits, anchors, temperatures, names = inputs(dtype)
    drafted = draft.reference_draft_block(head, logits, anchors, None, temperatures, names, names, 7)
    proposal = Proposal(logits, drafted.log_sums, drafted.log_probs, temperatures, head, None, anchors)
    lengths = torch.tensor([3, 2, 0, 1, 3], dtype=torch.int32)
    starts = torch.arange(ROWS) * (GAMMA + 1)
    target = torch.randint(-6, 7, (ROWS * (GAMMA + 1), VOCAB), generator=torch.Generator().manual_seed(9)).float()
    at = torch.tensor([1.0, 1.0, 0.0, 2.0, 3.0])
    top_ks, top_ps = torch.tensor([1003, 50, 1, 1003, 20], dtype=torch.int32), torch.tensor([1.0, 0.9, 1.0, 0.5, 0.8])

    def on(place: torch.device) -> acceptance.Accepted:
        def move(one: torch.Tensor) -> torch.Tensor:
            return one.to(place)

        there = proposal._replace(
            logits=move(logits),
            log_sums=move(drafted.log_sums),
            log_probs=move(drafted.log_probs),
            temperatures=move(temperatures),
            head=MarkovHead(head.kind, move(head.w1), move(head.w2)),
            anchors=move(anchors),
        )
        return acceptance.accept(
            move(target),
            move(starts),
            move(lengths),
            move(drafted.tokens),
            there,
            temperatures=move(at),
            top_ks=move(top_ks),
            top_ps=move(top_ps),
            requests=move(names),
            positions=move(names),
            seed=11,
        )

    found = on(device)
    wanted = acceptance.reference_accept(
        target, starts, lengths, drafted.tokens, proposal, at, top_ks, top_ps, names, names, 11
    )
    if not torch.equal(found.lengths.cpu(), wanted.lengths):
        return "accepts another number of drafts"
    return None if torch.equal(found.tokens.cpu(), wanted.tokens) else "ends rounds with other tokens"


STAGES: Final[dict[str, Callable[[torch.device, torch.dtype], str | None]]] = {
    "draft": _draft,
    "confidence": _confidence,
    "lengths": _lengths,
    "accept": _accept,
}
