"""Prior of a drafter's acceptance that nobody has measured on one's own traffic: published figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

from dspark_simulator.acceptance_model import packaged
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.known import known

PRIORS: Final = "acceptance_priors.csv"
# Of DeepSeek-V4-Flash no accepted length by data set is published: the quality that the published speed-ups of
# speculation imply, about 3 tokens a round with a block of 7 (the packaged scenarios b300-v4flash and mi350x-v4flash).
_BY_SPEED_UP: Final = {"DeepSeek-V4-Flash": -0.45}


class Prior(NamedTuple):
    """Assumed acceptance of a model's drafter.

    Attributes:
        logits: Quality relative to the packaged acceptance model (``drafter_quality`` of a scenario).
        because: What it rests on, as a sentence.
    """

    logits: float
    because: str


def prior(model: str, shares: Mapping[str, float], *, own_draft: bool = False) -> Prior:
    """Prior of the DSpark drafter of a model.

    Args:
        model: Hugging Face id of the model, or its name.
        shares: Share of the requests by domain.
        own_draft: The drafter is not the published one.

    Raises:
        InputError: No published drafter was measured on a domain.
    """
    for domain in shares:
        if domain not in packaged().domains:
            raise InputError(f"domain: {domain!r} is not known; use one of {', '.join(packaged().domains)}")
    shapes = known(model)
    name = shapes.name if shapes is not None else model
    published = _published()
    target = name.casefold()
    if any(target == other for other, _ in published):
        total = sum(shares.values())
        whose = "of another drafter of this model is assumed" if own_draft else "published for this model's drafter"
        logits = sum(share * published[target, domain].logits for domain, share in shares.items()) / total
        lengths = ", ".join(f"{published[target, domain].accepted_length:g} on {domain}" for domain in shares)
        return Prior(
            logits,
            f"Acceptance: that {whose} (arXiv 2607.05147, Table 1: accepted length {lengths}, block of 7).",
        )
    if name in _BY_SPEED_UP:
        logits = _BY_SPEED_UP[name]
        return Prior(
            logits,
            f"Acceptance: the paper's Qwen3-4B drafter, {-logits:g} logits worse, as published speed-ups of this "
            "model imply.",
        )
    return Prior(
        0.0, "Acceptance: none is published for this model, so that of the paper's Qwen3-4B drafter is assumed."
    )


class _Published(NamedTuple):
    accepted_length: float
    logits: float


@cache
def _published() -> dict[tuple[str, str], _Published]:
    """Published acceptance by target and domain."""
    with (resources.files("dspark_simulator") / PRIORS).open(encoding="utf-8") as file:
        return {
            (row["target"].casefold(), row["domain"]): _Published(float(row["accepted_length"]), float(row["logits"]))
            for row in csv.DictReader(file)
        }
