"""The operations of a draft round that the bench times: inputs, kernels and PyTorch references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, launch_configs, verify_lengths
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.bench import traffic
from dspark_kernels.launch_configs import GpuTarget, ScanConfig
from dspark_kernels.markov_finish import DraftOutputs
from dspark_kernels.startup.served_shapes import ServedShapes

# Operations and their stages. A server with CUDA graphs keeps the corrected logits of sampled drafts for acceptance,
# and none of greedy drafts.
OPERATIONS: Final = {
    "draft sampled": "draft",
    "draft greedy": "draft",
    "confidence": "confidence",
    "lengths": "lengths",
    "accept": "accept",
}
# All operations of a sampled round in sequence, in one CUDA graph.
ROUND: Final = "round"
IN_A_ROUND: Final = ("draft sampled", "confidence", "lengths", "accept")

Calls = dict[str, Callable[[], object]]


class BenchInputs(NamedTuple):
    """Inputs of a decode step of R requests whose blocks are verified whole.

    Attributes:
        head: The draft's Markov head.
        logits: [R, gamma, V], base logits.
        hidden: [R, gamma, H], the draft's hidden states.
        anchors, drafts: int64 [R] and [R, gamma].
        temperatures: float32 [R].
        names: int64 [R], used as request ids and as positions.
        target: [R, gamma + 1, V], the target's logits.
        weight: float32 [H + K], weights of the confidence head.
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
        """Views of the first requests."""
        of_all = ("head", "weight")
        return self._replace(**{name: one[:rows] for name, one in self._asdict().items() if name not in of_all})


def inputs(served: ServedShapes, device: torch.device) -> BenchInputs:
    """Draw inputs for ``served.requests`` requests on the device."""
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
    """Calls of our kernels by operation; ``scan`` replaces the launch configurations of the GPU."""
    batch, outputs, rated = _draft_batch(given), _outputs(given), _rated(given)

    def drafted(sample: bool) -> DraftOutputs:
        kept = given.kept if sample else None
        return draft.draft_block(batch, sample=sample, kept=kept, outputs=outputs, config=scan)

    calls: Calls = {
        "draft sampled": lambda: drafted(True),
        "draft greedy": lambda: drafted(False),
        "confidence": lambda: confidence.confidence_block(*rated),
        "lengths": lambda: verify_lengths.verify_lengths(given.confidences, _cap(given), floor=1e-6, with_anchor=True),
        "accept": lambda: acceptance.accept(_verified(given, outputs), scan),
    }
    return with_round(calls)


def references(given: BenchInputs) -> Calls:
    """Calls of the PyTorch references by operation, on any device."""
    sampled, outputs, rated = _draft_batch(given), _outputs(given), _rated(given)
    greedy = sampled._replace(temperatures=torch.zeros_like(given.temperatures))

    def drafted(sample: bool) -> DraftOutputs:
        batch, kept = (sampled, given.kept) if sample else (greedy, None)
        return draft.reference_draft_block(batch, sample=sample, kept=kept, outputs=outputs)

    calls: Calls = {
        "draft sampled": lambda: drafted(True),
        "draft greedy": lambda: drafted(False),
        "confidence": lambda: confidence.reference_confidence(*rated),
        "lengths": lambda: verify_lengths.reference_lengths(
            given.confidences, _cap(given), floor=1e-6, most=given.drafts.shape[1], with_anchor=True
        ),
        "accept": lambda: acceptance.reference_accept(_verified(given, outputs)),
    }
    return with_round(calls)


def with_round(calls: Calls) -> Calls:
    """Add a call that runs all operations of a sampled round."""
    return calls | {ROUND: lambda: [calls[operation]() for operation in IN_A_ROUND]}


def moved_bytes(served: ServedShapes, requests: int, target: GpuTarget) -> dict[str, int]:
    """Minimum bytes that our kernels move, by operation, with each address of a launch counted once."""
    # The formulas assume one width for weights, logits, kept logits and hidden states.
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
    """Outputs of drafting with finite values, since acceptance may be timed before any draft."""
    rows, gamma = given.drafts.shape
    outputs = draft.make_outputs(given.head, rows, gamma, given.anchors.device)
    outputs.log_probs.fill_(0.0)
    outputs.log_sums.fill_(20.0)
    return outputs


def _draft_batch(given: BenchInputs) -> DraftBatch:
    return DraftBatch(
        given.head, given.logits, given.anchors, given.hidden, given.temperatures, given.names, given.names, 1
    )


def _verified(given: BenchInputs, outputs: DraftOutputs) -> VerifiedBatch:
    """Inputs of acceptance; a server also makes the small tensors at each step."""
    rows, gamma = given.drafts.shape
    device = given.anchors.device
    starts = torch.arange(rows, device=device) * (gamma + 1)
    lengths = torch.full((rows,), gamma, dtype=torch.int32, device=device)
    at = given.temperatures
    proposal = KeptProposal(given.kept, outputs.log_sums, outputs.log_probs, at, None, None, given.anchors)
    return VerifiedBatch(
        given.target.flatten(0, 1), starts, lengths, given.drafts, proposal, at, given.names, given.names, 1
    )
