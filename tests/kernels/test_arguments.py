"""Invalid arguments raise errors that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dspark_kernels.acceptance import accept
from dspark_kernels.confidence import confidence_block
from dspark_kernels.draft import draft_block
from dspark_kernels.heads import Shard
from dspark_kernels.verify_lengths import verify_lengths
from tests.kernels.draft_inputs import block
from tests.kernels.test_acceptance import case, whole

GIVEN = block(1, "gated", torch.float32, 4, 3, 60, 16)
CASE = case(2, "rnn", torch.float32, 4, 3, 60)
PROPOSAL = CASE.proposal
assert PROPOSAL is not None


def drafted(**changed: Any) -> object:
    options = {name: changed.pop(name) for name in ("shard", "kept") if name in changed}
    return draft_block(GIVEN._replace(**changed), **options)


def accepted(**changed: Any) -> object:
    return accept(whole(CASE)._replace(**changed))


def rated(**changed: Any) -> object:
    given = {
        "hidden": GIVEN.hidden,
        "anchors": GIVEN.anchors,
        "tokens": torch.zeros(4, 3, dtype=torch.int64),
        "weight": torch.ones(40),
        "bias": torch.ones(1),
        "temperatures": torch.ones(3),
        "w1": GIVEN.head.w1,
    }
    return confidence_block(**(given | changed))


def scheduled(**changed: Any) -> object:
    given = {"confidence": torch.rand(4, 3), "cap": 5, "floor": 1e-6}
    return verify_lengths(**(given | changed))


HEAD, LOGITS = GIVEN.head, GIVEN.base_logits
BAD: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (
        drafted,
        {"base_logits": LOGITS.double()},
        "base_logits: dtype torch.float64, expected torch.float32 or",
    ),
    (
        drafted,
        {"base_logits": LOGITS[:, :, :59]},
        r"base_logits: shape \[4, 3, 59\], expected \[any, any, 60\]",
    ),
    (
        drafted,
        {"base_logits": LOGITS.mT.contiguous().mT},
        "base_logits: strides .*, expected rows of contiguous",
    ),
    (drafted, {"base_logits": torch.zeros(2, 17, 60)}, "base_logits: gamma: 17, expected 1 to 16"),
    (drafted, {"base_logits": torch.zeros(1025, 1, 60)}, "base_logits: rows: 1025, expected 1 to 1024"),
    (drafted, {"anchors": GIVEN.anchors.int()}, "anchors: dtype torch.int32, expected torch.int64"),
    (drafted, {"anchors": GIVEN.anchors[:3]}, r"anchors: shape \[3\], expected \[4\]"),
    (drafted, {"temperatures": GIVEN.temperatures.to("meta")}, "temperatures: on meta, expected c"),
    (drafted, {"requests": torch.zeros(8, dtype=torch.int64)[::2]}, "requests: strides"),
    (drafted, {"hidden": None}, "hidden: missing, expected the hidden states of a gated head"),
    (drafted, {"shard": Shard(6, 66, torch.clone)}, "shard: tokens 6 to 65, expected 60 of them from a multiple of 4"),
    (drafted, {"shard": Shard(0, 64, torch.clone)}, "shard: tokens 0 to 63, expected 60 of them"),
    (drafted, {"kept": LOGITS[:, :2]}, "kept: shape"),
    (drafted, {"head": HEAD._replace(w2=HEAD.w2.half())}, "w2: dtype torch.float16, expected torch.float32"),
    (drafted, {"head": HEAD._replace(w1=torch.zeros(60, 257))}, "w1: rank: 257, expected 1 to 256"),
    (drafted, {"head": HEAD._replace(joint=None)}, "joint, bias: missing"),
    (drafted, {"head": HEAD._replace(kind="other")}, "kind: other, expected one of vanilla"),
    (drafted, {"head": HEAD._replace(w2=HEAD.w2.T.contiguous().T)}, "w2: strides"),
    (accepted, {"lengths": CASE.lengths.long()}, "lengths: dtype torch.int64, expected torch.int32"),
    (accepted, {"starts": CASE.starts[:2]}, r"starts: shape \[2\], expected \[4\]"),
    (accepted, {"target_logits": CASE.target_logits.T}, "target_logits: strides"),
    (accepted, {"top_ks": torch.ones(4)}, "top_ks: dtype"),
    (accepted, {"top_ps": torch.ones(5)}, "top_ps: shape"),
    (accepted, {"proposal": PROPOSAL._replace(latents=None)}, "proposal.latents: missing"),
    (accepted, {"proposal": PROPOSAL._replace(log_sums=torch.ones(4, 2))}, "proposal.log_sums: shape"),
    (
        accepted,
        {"proposal": PROPOSAL._replace(shard=Shard(6, 6 + CASE.target_logits.shape[1], torch.clone))},
        "proposal.shard: tokens 6 to",
    ),
    (
        accepted,
        {"proposal": PROPOSAL._replace(shard=Shard(4, 4 + CASE.target_logits.shape[1], torch.clone))},
        "proposal: tokens: ",
    ),
    (rated, {"weight": torch.ones(39)}, r"weight: shape \[39\], expected \[40\]"),
    (rated, {"temperatures": torch.ones(2)}, "temperatures: shape"),
    (rated, {"hidden": GIVEN.hidden.mT.contiguous().mT}, "hidden: strides"),
    (scheduled, {"confidence": torch.rand(4, 3).half()}, "confidence: dtype"),
    (scheduled, {"confidence": torch.rand(2000, 3)}, "confidence: rows: 2000, expected 1 to 1024"),
    (scheduled, {"cap": torch.ones(1)}, "cap: dtype torch.float32, expected torch.int32"),
    (scheduled, {"most": 4}, "most: 4, expected 0 to 3"),
    (scheduled, {"least": 2, "most": 1}, "least: 2, expected 0 to 1"),
    (scheduled, {"weights": torch.ones(2, dtype=torch.float64)}, "weights, price, classes, context: some are missing"),
]


@pytest.mark.parametrize(("call", "changed", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_arguments_are_named(call: Callable[..., object], changed: dict[str, Any], message: str) -> None:
    call()
    with pytest.raises(ValueError, match=message):
        call(**changed)
