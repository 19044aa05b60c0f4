"""The operations of a draft round that a bench times: inputs, our kernels and their PyTorch references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, launch_configs, verify_lengths
from dspark_kernels.bench import traffic
from dspark_kernels.launch_configs import GpuTarget, ScanConfig
from dspark_kernels.markov_finish import DraftOutputs
from dspark_kernels.residual_scan import Proposal
from dspark_kernels.startup.served_shapes import ServedShapes

# Each operation and its stage. A server with CUDA graphs keeps the corrected logits of sampled drafts for acceptance,
# and none of greedy ones.
OPERATIONS: Final = {
    "draft sampled": "draft",
    "draft greedy": "draft",
    "confidence": "confidence",
    "lengths": "lengths",
    "accept": "accept",
}
# All of a sampled round, one after the other, in one graph.
ROUND: Final = "round"
IN_A_ROUND: Final = ("draft sampled", "confidence", "lengths", "accept")

Calls = dict[str, Callable[[], object]]


class BenchInputs(NamedTuple):
    """A decode step of R requests, whose blocks are verified whole.

    Attributes:
        head: The draft's Markov head.
        logits: [R, gamma, V], base logits.
        hidden: [R, gamma, H], the draft's hidden states.
        anchors, drafts: int64 [R] and [R, gamma].
        temperatures: float32 [R].
        names: int64 [R], what names a request's draws.
        target: [R, gamma + 1, V], the target's logits.
        weight: float32 [H + K], of the confidence head.
        confidences: float32 [R, gamma].
        kept: [R, gamma, V], the buffer for corrected logits.
    """

    head: heads.MarkovHead
    logits: torch.Tensor
    hidden: torch.Tensor
    anchors: torch.Tensor
    drafts: torch.Tensor
    temperatures: torch.Tensor
    names: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    confidences: torch.Tensor
    kept: torch.Tensor

    def first(self, rows: int) -> BenchInputs:
        """The first requests, in the same memory."""
        of_all = ("head", "weight")
        return self._replace(**{name: one[:rows] for name, one in self._asdict().items() if name not in of_all})


def inputs(served: ServedShapes, device: torch.device) -> BenchInputs:
    """For ``served.requests`` requests, drawn on the device."""
    rows, gamma, vocab, rank = served.requests, served.gamma, served.vocab, served.rank

    def normal(*shape: int, to: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32 if device.type == "cpu" else to).to(to)

    def integers(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, most, shape, device=device)

    head = heads.MarkovHead(served.kind, normal(vocab, rank, to=served.w1), normal(vocab, rank, to=served.w2))
    if chunks := heads.CHUNKS[served.kind]:
        width = served.hidden + rank * (2 if served.kind == "rnn" else 1)
        head = head._replace(joint=normal(chunks * rank, width, to=served.w1), bias=normal(chunks * rank, to=served.w1))
    return BenchInputs(
        head,
        normal(rows, gamma, vocab, to=served.logits),
        normal(rows, gamma, served.hidden, to=served.w1),
        integers(vocab, rows),
        integers(vocab, rows, gamma),
        torch.ones(rows, device=device),
        integers(1 << 40, rows),
        normal(rows, gamma + 1, vocab, to=served.target),
        normal(served.hidden + rank, to=torch.float32),
        torch.rand((rows, gamma), device=device),
        normal(rows, gamma, vocab, to=served.kept),
    )


def ours(given: BenchInputs, scan: ScanConfig | None = None) -> Calls:
    """Our kernels, by operation, and the whole round; ``scan``: in place of the target's configurations."""
    named: dict[str, Any] = {"requests": given.names, "positions": given.names, "seed": 1}
    outputs, rated = _outputs(given), _rated(given)

    def drafted(sample: bool) -> DraftOutputs:
        return draft.draft_block(
            given.head,
            given.logits,
            given.anchors,
            hidden=given.hidden,
            temperatures=given.temperatures,
            sample=sample,
            kept=given.kept if sample else None,
            outputs=outputs,
            config=scan,
            **named,
        )

    calls: Calls = {
        "draft sampled": lambda: drafted(True),
        "draft greedy": lambda: drafted(False),
        "confidence": lambda: confidence.confidence_block(*rated),
        "lengths": lambda: verify_lengths.verify_lengths(given.confidences, _cap(given), floor=1e-6, with_anchor=True),
        "accept": lambda: acceptance.accept(
            *_verified(given, outputs), temperatures=given.temperatures, scan=scan, **named
        ),
    }
    return with_round(calls)


def references(given: BenchInputs) -> Calls:
    """The PyTorch references, by operation, on tensors of any device."""
    from_hidden = None if given.head.kind == "vanilla" else given.head.from_hidden(given.hidden)
    greedy, outputs, rated = torch.zeros_like(given.temperatures), _outputs(given), _rated(given)

    def drafted(sample: bool) -> DraftOutputs:
        at, kept = (given.temperatures, given.kept) if sample else (greedy, None)
        names = given.names, given.names
        return draft.reference_draft_block(
            given.head, given.logits, given.anchors, from_hidden, at, *names, 1, sample, kept, outputs
        )

    calls: Calls = {
        "draft sampled": lambda: drafted(True),
        "draft greedy": lambda: drafted(False),
        "confidence": lambda: confidence.reference_confidence(*rated),
        "lengths": lambda: verify_lengths.reference_lengths(
            given.confidences, _cap(given), 1e-6, 0, given.drafts.shape[1], None, None, None, None, True
        ),
        "accept": lambda: acceptance.reference_accept(
            *_verified(given, outputs), given.temperatures, None, None, given.names, given.names, 1
        ),
    }
    return with_round(calls)


def with_round(calls: Calls) -> Calls:
    """The calls, and all of a sampled round as one more."""
    return calls | {ROUND: lambda: [calls[operation]() for operation in IN_A_ROUND]}


def moved_bytes(served: ServedShapes, requests: int, target: GpuTarget) -> dict[str, int]:
    """Bytes that our kernels move at least, by operation: each address of a launch once, as :mod:`traffic` counts."""
    # The formulas have one width for weights, logits, kept logits and hidden states.
    if len({one.itemsize for one in (served.logits, served.w1, served.w2, served.kept)}) > 1:
        return {}
    width = served.w2.itemsize
    shape = traffic.RoundShape(
        requests,
        served.vocab,
        served.rank,
        served.gamma,
        served.hidden,
        logit_bytes=width,
        target_bytes=served.target.itemsize,
    )
    scan = launch_configs.for_rows(target.draft if width == 2 else target.single, requests)
    residual = launch_configs.for_rows(target.residual if width == 2 else target.single, requests)
    moved = {
        "draft sampled": traffic.position(shape, scan, True, True).times(shape.gamma).distinct,
        "draft greedy": traffic.position(shape, scan, False).times(shape.gamma).distinct,
        "confidence": traffic.confidence_of_block(shape).distinct,
        "lengths": traffic.schedule(shape).distinct,
        "accept": traffic.accept(shape, residual, True).distinct,
    }
    return moved | {ROUND: sum(moved[operation] for operation in IN_A_ROUND)}


def _cap(given: BenchInputs) -> int:
    return 3 * len(given.anchors)


def _rated(
    given: BenchInputs,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, None, torch.Tensor, torch.Tensor]:
    gamma = given.drafts.shape[1]
    ones = torch.ones(gamma, device=given.anchors.device)
    return given.hidden, given.anchors, given.drafts, given.weight, None, ones, given.head.w1


def _outputs(given: BenchInputs) -> DraftOutputs:
    """What drafting writes and acceptance reads; acceptance may be timed before anything was drafted."""
    rows, gamma = given.drafts.shape
    outputs = draft.make_outputs(given.head, rows, gamma, given.anchors.device)
    outputs.log_probs.fill_(0.0)
    outputs.log_sums.fill_(20.0)
    return outputs


def _verified(
    given: BenchInputs, outputs: DraftOutputs
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Proposal]:
    """Arguments of acceptance; the server makes its small tensors at each step too."""
    rows, gamma = given.drafts.shape
    device = given.anchors.device
    starts = torch.arange(rows, device=device) * (gamma + 1)
    lengths = torch.full((rows,), gamma, dtype=torch.int32, device=device)
    proposal = Proposal(given.kept, outputs.log_sums, outputs.log_probs, given.temperatures, None, None, given.anchors)
    return given.target.flatten(0, 1), starts, lengths, given.drafts, proposal
